//! Decides. Types and state machines of Launchway: no clock, no I/O, no async, no randomness.
//!
//! Time comes in as a [`Timestamp`]; effects go out as values. Everything here can be replayed.

pub mod app;
pub mod certificate;
pub mod config;
pub mod container;
pub mod id;
pub mod judge;
pub mod pipeline;
pub mod refusal;
pub mod release;
pub mod report;
pub mod rollout;
pub mod route;
pub mod scan;
pub mod sketch;
pub mod slot;
pub mod time;
pub mod units;

pub use id::{
    AppName, CommitId, Digest, EnvironmentName, Epoch, Identity, ReleaseId, RolloutId, RunId,
    ServiceName, StepName,
};
pub use release::Release;
pub use slot::Color;
pub use time::{Date, Timestamp};
