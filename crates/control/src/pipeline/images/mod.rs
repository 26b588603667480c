//! Images of containers: built once for the same inputs, by the Docker Engine, and named by their digest.
//!
//! ```text
//! inputs (context, Dockerfile, bases) ─▶ KEY ─▶ images/KEY.json ─▶ still there? ─yes─▶ reused
//!                                                  │no                │no
//!                                                  ▼                  ▼
//!                                   an image labelled with KEY? ─no─▶ build ─▶ (push) ─▶ images/KEY.json
//! ```
//!
//! The label is what a crash leaves behind of a build that was done; one that was under way ended with our connection.

mod dockerfile;
mod engine;
mod keep;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::engine::docker::STATE_LABEL as STATE;
use ::engine::docker::build::{
    BuildError, BuildRequest, Context, Ignore, ImageBuilder, Secrets, by_id, ignore_files,
};
use domain::config::{Built, SecretSource};
use domain::pipeline::{Outcome, cause};
use domain::slot::{ArtifactRef, Location};
use domain::{CommitId, Digest, RunId, ServiceName};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::artifact::{Image, built, cannot};
use super::checkout::{clear, export_fresh};
use super::error::PipelineError;
use super::files::{folder_of, lock, read_json, write_json};
use super::job;
use super::verdict::Verdict;
use super::{Inner, StepRequest, layout};

pub use engine::Images;
pub use keep::Needed;

/// For the build of one image, and as long again to push it.
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Of the log, with a verdict.
const TAIL: usize = 200;
/// The name of a Dockerfile that is in the Compose file.
const INLINE: &str = ".launchway.Dockerfile";

/// The inputs that an image was built of.
const INPUTS: &str = "dev.launchway.inputs";
const APP: &str = "dev.launchway.app";
const SERVICE: &str = "dev.launchway.service";

#[derive(Debug, Serialize, Deserialize)]
struct Known {
    digest: Digest,
    run: RunId,
}

/// What decides about an image, beside the commit's files.
pub(crate) struct Around {
    pub ignore: Ignore,
    /// The Dockerfile, from the project's root, unless it is in the Compose file.
    pub dockerfile: Option<String>,
    /// Names and ids of the images it begins with.
    pub bases: BTreeMap<String, String>,
}

impl Inner {
    /// What the image of `service` depends on that is not in the list of the commit's files.
    pub(super) async fn around(
        &self,
        commit: &CommitId,
        built: &Built,
    ) -> Result<Around, PipelineError> {
        let within = |name: &str| match built.context.as_str() {
            "" => name.to_owned(),
            context => format!("{context}/{name}"),
        };
        let mut ignore = Ignore::default();
        for name in ignore_files(&built.dockerfile) {
            if let Some(text) = self.repository.file(commit, &within(&name)).await? {
                ignore = Ignore::parse(&text)
                    .map_err(|why| PipelineError::new(format!("reading {}", within(&name)), why))?;
                break;
            }
        }
        let dockerfile = built.options.inline.is_none().then(|| within(&built.dockerfile));
        let text = match &dockerfile {
            Some(path) => self.repository.file(commit, path).await?,
            None => built.options.inline.clone(),
        };
        let mut bases = BTreeMap::new();
        // Without an Engine nothing is built, so it does not matter what the key is.
        if let (Some(text), Ok(builder)) = (text, self.config.images.builder().await) {
            for name in dockerfile::bases(&text, &built.options.args) {
                let found = builder.image(&name).await.ok().flatten();
                let id = found.map_or("not on this machine".into(), |image| by_id(&image.id));
                bases.insert(name, id);
            }
        }
        Ok(Around { ignore, dockerfile, bases })
    }

    /// The image of `service` for the inputs `key`: the one there is, or a new one.
    pub(super) async fn container(
        &self,
        request: &StepRequest<'_>,
        service: &ServiceName,
        key: &Digest,
        cancel: &CancellationToken,
    ) -> Result<Image, PipelineError> {
        let Some(built) = built(request, service) else {
            return Ok(Image::Not(cannot(format!("`{service}` is not built here"))));
        };
        let made = tokio::select! {
            made = tokio::time::timeout(2 * TIME_LIMIT, self.made(request, service, built, key)) => made,
            () = cancel.cancelled() => return Ok(Image::Not(Verdict::canceled())),
        };
        match made {
            Ok(Ok(image)) => Ok(image),
            Ok(Err(Failure::Build(error))) => Ok(Image::Not(self.failed(request, built, &error))),
            Ok(Err(Failure::Ours(error))) => Err(error),
            Err(_) => {
                let cause = format!("the build had not ended after {TIME_LIMIT:?} and was stopped");
                Ok(Image::Not(Verdict::without_reports(
                    Outcome::TimedOut,
                    cause,
                    self.said(request),
                )))
            }
        }
    }

    async fn made(
        &self,
        request: &StepRequest<'_>,
        service: &ServiceName,
        built: &Built,
        key: &Digest,
    ) -> Result<Image, Failure> {
        let builder = self.config.images.builder().await?;
        let _making = self.config.images.making.read().await;
        let _ours = self.locks.take(&format!("image {key}")).await;
        let record = self.layout.image(key);
        folder_of(record.parent().unwrap_or(&record), None)?;
        let _theirs = lock(record.with_extension("lock")).await?;
        let name = format!("{}/{service}", request.project.app);
        let tag = format!("{name}:{}", request.commit);
        let labels = self.labels(request, service, key).await;
        let known = match self.known(&builder, &record, &labels, request).await? {
            Some(known) => {
                builder.tag(&known.digest, &tag).await?;
                known
            }
            None => {
                let digest = self.build(&builder, request, service, built, &tag, labels).await?;
                let known = Known { digest, run: request.run.clone() };
                write_json(&record, &known)?;
                known
            }
        };
        self.config.images.used(&known.digest);
        let pushed = match &request.project.registry {
            Some(registry) => {
                let there = format!("{}/{tag}", registry.push.trim_end_matches('/'));
                Some(self.push(&builder, request, &known.digest, &there).await?)
            }
            None => None,
        };
        let location = Location::Image { image: tag, pushed };
        let artifact = ArtifactRef { digest: known.digest, location };
        Ok(match known.run == *request.run {
            true => Image::Made(artifact),
            false => Image::Reused(artifact, known.run),
        })
    }

    /// The image that was built of these inputs before, if the Engine still has it.
    async fn known(
        &self,
        builder: &ImageBuilder,
        record: &Path,
        labels: &BTreeMap<String, String>,
        request: &StepRequest<'_>,
    ) -> Result<Option<Known>, Failure> {
        if let Some(known) = read_json::<Known>(record)
            && builder.image(&by_id(&known.digest)).await?.is_some()
        {
            return Ok(Some(known));
        }
        let ours = [INPUTS, STATE].map(|name| (name.to_owned(), labels[name].clone()));
        let found = builder.labelled(&ours.into()).await?;
        let Some(image) = found.into_iter().next() else { return Ok(None) };
        let known = Known { digest: image.id, run: request.run.clone() };
        write_json(record, &known)?;
        Ok(Some(known))
    }

    /// One build, in a fresh copy of the context: steps before may have left things in the checkout.
    async fn build(
        &self,
        builder: &ImageBuilder,
        request: &StepRequest<'_>,
        service: &ServiceName,
        built: &Built,
        tag: &str,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest, Failure> {
        // It says that there is something to clear away, whatever happens now.
        folder_of(&self.layout.temporary(request.run.as_str()), self.config.run_as)?;
        let folder = self.layout.context(request.run.as_str(), service.as_str());
        export_fresh(&self.repository, request.commit, &built.context, &folder, None).await?;
        let options = &built.options;
        let inline = options.inline.clone();
        let dockerfile = inline.as_ref().map_or(built.dockerfile.as_str(), |_| INLINE).to_owned();
        let build = BuildRequest {
            context: Context {
                root: folder.clone(),
                dockerfile,
                inline,
                modified: self.repository.time(request.commit).await?,
            },
            tag: tag.to_owned(),
            target: options.target.clone(),
            args: options.args.clone(),
            labels: options.labels.clone().into_iter().chain(labels).collect(),
            secrets: self.secrets(built)?,
            pull: false,
            no_cache: false,
            network: None,
            extra_hosts: options.extra_hosts.clone(),
        };
        let mut log = self.log_of(request)?;
        let made = builder.build(&build, &mut log).await;
        clear(&folder).await?;
        Ok(made?)
    }

    async fn push(
        &self,
        builder: &ImageBuilder,
        request: &StepRequest<'_>,
        digest: &Digest,
        there: &str,
    ) -> Result<String, Failure> {
        builder.tag(digest, there).await?;
        let mut log = self.log_of(request)?;
        log(&format!("pushing {there}"));
        Ok(builder.push(there, &mut log).await?)
    }

    /// By <https://github.com/opencontainers/image-spec/blob/main/annotations.md>; nothing that differs from build to
    /// build of the same commit, so that its digest does not either.
    async fn labels(
        &self,
        request: &StepRequest<'_>,
        service: &ServiceName,
        key: &Digest,
    ) -> BTreeMap<String, String> {
        let app = &request.project.app;
        let mut labels = vec![
            ("org.opencontainers.image.title", format!("{app}/{service}")),
            ("org.opencontainers.image.revision", request.commit.to_string()),
            ("org.opencontainers.image.version", request.commit.short().to_string()),
            (APP, app.to_string()),
            (SERVICE, service.to_string()),
            (INPUTS, key.to_string()),
            (STATE, self.config.images.state().to_owned()),
        ];
        let source = self.repository.origin().await;
        labels.extend(source.map(|source| ("org.opencontainers.image.source", source)));
        labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Read when they are needed, and kept nowhere.
    fn secrets(&self, built: &Built) -> Result<Secrets, PipelineError> {
        let mut all = BTreeMap::new();
        for secret in &built.options.secrets {
            let doing = || format!("reading the build secret `{}`", secret.id);
            let value = match &secret.from {
                SecretSource::File(path) => {
                    let path: PathBuf = self.config.repository.join(path);
                    let why = |error| format!("{}: {error}", path.display());
                    std::fs::read(&path).map_err(|error| PipelineError::new(doing(), why(error)))?
                }
                SecretSource::Variable(name) => {
                    let why = format!("the server has no variable `{name}`; start it with one");
                    let value = self.config.environment.get(name);
                    value.ok_or_else(|| PipelineError::new(doing(), why))?.clone().into_bytes()
                }
            };
            all.insert(secret.id.clone(), value);
        }
        Ok(Secrets(all))
    }

    fn log_of(
        &self,
        request: &StepRequest<'_>,
    ) -> Result<impl FnMut(&str) + Send + use<>, PipelineError> {
        let path = layout::log(&self.layout.step(request.run, &request.step.name));
        job::open_log(&path, self.config.run_as)?;
        Ok(job::appender(path))
    }

    fn said(&self, request: &StepRequest<'_>) -> Vec<String> {
        let path = layout::log(&self.layout.step(request.run, &request.step.name));
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].iter().map(|&line| line.to_owned()).collect()
    }

    fn failed(&self, request: &StepRequest<'_>, built: &Built, error: &BuildError) -> Verdict {
        let tail = self.said(request);
        let cause = match error {
            BuildError::Failed { said, .. } | BuildError::Refused(said) => {
                cause::of_image(said.trim(), &place(built, error), &tail)
            }
            other => other.to_string(),
        };
        Verdict::without_reports(Outcome::Failed, cause, tail)
    }
}

/// The Dockerfile from the project's root, with the line where that is known.
fn place(built: &Built, error: &BuildError) -> String {
    if built.options.inline.is_some() {
        return built.dockerfile.clone();
    }
    let path = Path::new(&built.context).join(&built.dockerfile);
    let path = path.strip_prefix(".").unwrap_or(&path).display();
    match error {
        BuildError::Failed { at: Some(at), .. } => format!("{path}:{}", at.line),
        _ => path.to_string(),
    }
}

/// Why there is no image.
enum Failure {
    Build(BuildError),
    Ours(PipelineError),
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        Self::Ours(error)
    }
}
