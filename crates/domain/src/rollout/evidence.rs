//! What a failure leaves behind: the likeliest cause first, then all that was seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::slot::ProbeRecord;

/// The kept evidence of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// The likeliest cause and what to do next, in a sentence.
    pub cause: String,
    /// Health probes and their answers, by replica.
    pub probes: BTreeMap<String, Vec<ProbeRecord>>,
    /// The last lines of output, at most 200 each, by replica or job.
    pub logs: BTreeMap<String, Vec<String>>,
    /// What differs from the last good release: changed files.
    pub differs: Vec<String>,
}

impl Evidence {
    /// Only a cause.
    pub fn of(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), ..Self::default() }
    }
}
