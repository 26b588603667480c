//! Why something of the build pipeline could not be done.

use std::fmt::Display;

/// A failure of our own, not of a user's command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {why}")]
pub struct PipelineError {
    /// What was being done, to what.
    pub doing: String,
    /// Why it failed, and what to do next where that is known.
    pub why: String,
}

impl PipelineError {
    pub(crate) fn new(doing: impl Into<String>, why: impl Display) -> Self {
        Self { doing: doing.into(), why: why.to_string() }
    }
}

impl From<engine::EngineError> for PipelineError {
    fn from(error: engine::EngineError) -> Self {
        Self { doing: error.doing, why: error.why }
    }
}

/// Why a run could not be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The configuration of the commit is wrong: one `file:line:column: ...` text per mistake.
    #[error("the configuration of this commit has mistakes:\n{}", .0.join("\n"))]
    Mistakes(Vec<String>),
    #[error(transparent)]
    Failed(#[from] PipelineError),
}
