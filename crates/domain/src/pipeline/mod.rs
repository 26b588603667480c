//! The build pipeline: what a run consists of, and what becomes of each step.

mod run;
mod step;

pub use run::*;
pub use step::*;
