//! The loop. Takes events, asks `domain`, performs actions through the other crates.

mod branches;
pub mod certificates;
pub mod clock;
pub mod control;
pub mod edges;
pub mod effects;
pub mod engines;
mod failures;
mod housekeeping;
pub mod load;
pub mod observer;
pub mod pipeline;
mod reconcile;
pub mod server;
pub mod spec;
pub mod up;
pub mod world;
