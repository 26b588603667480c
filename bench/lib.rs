//! Benchmarks of Launchway beside what a user would pick instead: each in one run on one machine, as ratios.

pub mod edge;
pub mod peers;
pub mod switch;
