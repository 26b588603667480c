//! The images of a project: built as the file says, or pulled, where they are not there already.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use domain::config::{ImageBuild, SecretSource};
use domain::{Digest, ServiceName};
use engine::docker::build::{At, BuildError, BuildRequest, Context, ImageBuilder, Secrets};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Event, Options, Project, Say, UpError, plan};

/// Builds and downloads side by side.
const AT_ONCE: usize = 4;
/// The name of a Dockerfile that does not lie in the context.
const OUTSIDE: &str = ".launchway.Dockerfile";

/// The image of each service, by digest. Builds come first: what one makes, another service may only name.
pub(super) async fn images(
    builder: &ImageBuilder,
    project: &Project,
    options: &Options,
    say: &Say,
) -> Result<BTreeMap<ServiceName, Digest>, UpError> {
    let (ours, theirs): (Vec<_>, Vec<_>) =
        project.services.iter().partition(|(_, service)| service.said.build.is_some());
    let mut images = BTreeMap::new();
    let builds = ours.into_iter().filter_map(|(name, service)| {
        let build = service.said.build.as_ref()?;
        Some(async move {
            let image =
                built(builder, project, name, service.said.image.as_deref(), build, options, say);
            Ok::<_, UpError>((name.clone(), image.await?))
        })
    });
    let built: Vec<_> = stream::iter(builds).buffer_unordered(AT_ONCE).try_collect().await?;
    images.extend(built);
    let pulls =
        theirs.into_iter().filter_map(|(name, service)| {
            let image = service.said.image.clone()?;
            Some(async move {
                Ok::<_, UpError>((name.clone(), pulled(builder, name, &image, say).await?))
            })
        });
    let pulled: Vec<_> = stream::iter(pulls).buffer_unordered(AT_ONCE).try_collect().await?;
    images.extend(pulled);
    Ok(images)
}

async fn built(
    builder: &ImageBuilder,
    project: &Project,
    name: &ServiceName,
    image: Option<&str>,
    build: &ImageBuild,
    options: &Options,
    say: &Say,
) -> Result<Digest, UpError> {
    let tag = image.map_or_else(|| format!("{}-{name}", project.name), str::to_owned);
    let failed = |why| {
        let place = place(project, build, &why);
        UpError::Build { service: name.clone(), place, why }
    };
    if !options.build
        && let Some(found) = builder.image(&tag).await.map_err(failed)?
    {
        return Ok(found.id);
    }
    say(Event::Building(name.clone()));
    let request = request(project, tag, build).map_err(failed)?;
    let mut log = |line: &str| say(Event::Built(name.clone(), line.to_owned()));
    builder.build(&request, &mut log).await.map_err(failed)
}

/// Where in which Dockerfile it failed, as far as that is known.
fn place(project: &Project, build: &ImageBuild, why: &BuildError) -> String {
    let BuildError::Failed { at: Some(At { line, instruction }), .. } = why else {
        return String::new();
    };
    let path = project.path(Path::new(&build.context)).join(&build.dockerfile);
    let file = match build.options.inline {
        Some(_) => "`dockerfile_inline`".into(),
        None => path.strip_prefix(&project.folder).unwrap_or(&path).display().to_string(),
    };
    format!("{file}:{line}: `{instruction}`: ")
}

fn request(project: &Project, tag: String, build: &ImageBuild) -> Result<BuildRequest, BuildError> {
    let said = &build.options;
    let root = project.path(Path::new(&build.context));
    let outside = Path::new(&build.dockerfile).is_absolute() || build.dockerfile.starts_with("..");
    let inline = match (&said.inline, outside) {
        (Some(text), _) => Some(text.clone()),
        (None, true) => Some(
            std::fs::read_to_string(root.join(&build.dockerfile)).map_err(BuildError::Context)?,
        ),
        (None, false) => None,
    };
    let dockerfile = if inline.is_some() { OUTSIDE } else { &build.dockerfile };
    // What is copied anew is as new as its copy, so that no browser takes it for what it has seen before.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(BuildRequest {
        context: Context {
            root,
            dockerfile: dockerfile.to_owned(),
            inline,
            modified: now.as_secs(),
        },
        tag,
        target: said.target.clone(),
        args: said.args.clone(),
        labels: said.labels.clone().into_iter().chain(plan::labels(project)).collect(),
        secrets: secrets(project, build)?,
        pull: false,
        no_cache: false,
        network: None,
        extra_hosts: said.extra_hosts.clone(),
    })
}

fn secrets(project: &Project, build: &ImageBuild) -> Result<Secrets, BuildError> {
    let mut all = BTreeMap::new();
    for secret in &build.options.secrets {
        let value = match &secret.from {
            SecretSource::File(path) => {
                std::fs::read(project.path(path)).map_err(BuildError::Context)?
            }
            SecretSource::Variable(name) => {
                let value = project.variable(name);
                let missing = || {
                    std::io::Error::other(format!(
                        "the secret {} comes from ${name}, which is not set",
                        secret.id
                    ))
                };
                value.ok_or_else(missing).map_err(BuildError::Context)?.into_bytes()
            }
        };
        all.insert(secret.id.clone(), value);
    }
    Ok(Secrets(all))
}

async fn pulled(
    builder: &ImageBuilder,
    name: &ServiceName,
    image: &str,
    say: &Say,
) -> Result<Digest, UpError> {
    let failed = |why| UpError::Pull { image: image.to_owned(), why };
    if let Some(found) = builder.image(image).await.map_err(failed)? {
        return Ok(found.id);
    }
    say(Event::Pulling(image.to_owned()));
    let mut log = |line: &str| say(Event::Built(name.clone(), line.to_owned()));
    Ok(builder.pull(image, &mut log).await.map_err(failed)?.id)
}
