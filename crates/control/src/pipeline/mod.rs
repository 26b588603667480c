//! The build pipeline: performs the steps of a run.
