//! The build pipeline: what a run consists of, and what becomes of each step.

mod step;

pub use step::*;
