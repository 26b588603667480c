//! Why an event does not fit the state it meets: a value, never a panic.

use serde::{Deserialize, Serialize};

/// An event was refused and nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// Why, for people.
    pub reason: String,
    /// A gate said no (exit code 3), rather than the request making no sense.
    pub gate: bool,
}

impl Refusal {
    /// The request does not fit the state.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), gate: false }
    }

    /// A gate said no.
    pub fn by_gate(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), gate: true }
    }
}
