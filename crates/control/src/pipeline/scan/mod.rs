//! Looks for something in what was built, with a tool of the machine.

use std::path::Path;

use domain::pipeline::{Outcome, StepResult};
use domain::scan::Inspection;
use tokio_util::sync::CancellationToken;

use super::error::PipelineError;
use super::verdict::Verdict;
use super::{Inner, StepRequest, result};

impl Inner {
    pub(super) async fn inspect(
        &self,
        _request: &StepRequest<'_>,
        inspection: Inspection,
        _folder: &Path,
        _cancel: &CancellationToken,
    ) -> Result<StepResult, PipelineError> {
        let why = format!("nothing of this machine answers to `{}`", inspection.step());
        Ok(result::of_verdict(Verdict::without_reports(Outcome::Unavailable, why, Vec::new()), 0))
    }
}
