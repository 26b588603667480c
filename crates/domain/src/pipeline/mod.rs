//! The build pipeline: what a run consists of, what becomes of each step, and why one failed.

pub mod cause;
mod run;
mod step;

pub use run::*;
pub use step::*;
