//! Bills of materials: one for each artifact, made once and kept with each run's evidence.

use domain::Digest;
use domain::report::cyclonedx;
use domain::slot::ArtifactRef;

use super::super::Inner;
use super::super::error::PipelineError;
use super::super::files::{self, PRIVATE};
use super::bench::{Bench, Halt};
use super::program::Program;
use super::subject::Subject;
use super::syft;

/// A bill of materials that was made.
pub(super) struct Bill {
    pub subject: Subject,
    /// How many parts it lists.
    pub components: usize,
}

impl Inner {
    /// The artifact's bill of materials: what an artifact is made of never changes, so the same tool makes it once.
    pub(super) async fn bill(
        &self,
        bench: &Bench<'_>,
        syft: &Program,
        service: &str,
        artifact: &ArtifactRef,
    ) -> Result<Bill, Halt> {
        let key = Digest::of(format!("{} {} {}", service, artifact.digest, syft.identity));
        let known = self.layout.bill(&key);
        let text = match std::fs::read_to_string(&known) {
            Ok(text) if cyclonedx::read(&text).is_ok() => {
                bench.say(&format!(
                    "{service}: it is the artifact of before, with the same bill of materials"
                ));
                text
            }
            _ => {
                let subject = bench.subject(service, artifact).await?;
                let text = syft::list(bench, syft, service, &subject).await?;
                files::write(&known, text.as_bytes(), PRIVATE)
                    .map_err(|e| PipelineError::new(format!("keeping {}", known.display()), e))?;
                text
            }
        };
        let components = cyclonedx::read(&text).map_or(0, |bom| bom.components.len());
        let name = format!("{service}.cdx.json");
        bench.say(&format!("{service}: {components} parts in its bill of materials {name}"));
        bench.keep(&name, &text)?;
        let path = bench.input(&name);
        files::write(&path, text.as_bytes(), PRIVATE)
            .map_err(|e| PipelineError::new(format!("writing {}", path.display()), e))?;
        bench.hand_over(&path)?;
        Ok(Bill { subject: Subject::Bill(path), components })
    }
}
