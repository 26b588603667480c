//! Brings a project up: networks, volumes, images, then every service as soon as what it depends on is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::config::{Condition, Dependency};
use domain::{Digest, ServiceName};
use engine::docker::build::ImageBuilder;
use engine::docker::project::{
    COMPOSE_PROJECT, Ensured, FOLDER, Found, PROJECT, ProjectEngine, Thing,
};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{mpsc, watch};

use super::plan::{self, DEPENDS, Planned, SUCCESSOR};
use super::{Change, Event, Options, Project, Running, Say, UpError, images, wait};

/// For a container that is in the way.
const GRACE: Duration = Duration::from_secs(10);

/// Brings the project up; its containers in the order of the file's services. What runs already and has not
/// changed is left alone. Each container is told to `started` as soon as it runs.
pub async fn bring_up(
    engine: &ProjectEngine,
    project: &Project,
    options: &Options,
    say: &Say,
    started: mpsc::Sender<Running>,
) -> Result<Vec<Running>, UpError> {
    let existing = existing(engine, project).await?;
    folders(project)?;
    ensure_networks(engine, project, say).await?;
    ensure_volumes(engine, project, say).await?;
    let builder = ImageBuilder::connect().await;
    let builder = builder.map_err(|why| UpError::refused(why.to_string(), "then run it again"))?;
    let images = images::images(&builder, project, options, say).await?;
    orphans(engine, project, &existing, options, say).await?;
    let stages: BTreeMap<&ServiceName, watch::Sender<Option<Stage>>> =
        project.services.keys().map(|name| (name, watch::Sender::new(None))).collect();
    let bring = Bring {
        engine,
        project,
        options,
        say,
        existing: &existing,
        images: &images,
        stages,
        started,
    };
    let all = try_join_all(project.services.keys().map(|name| bring.service(name))).await?;
    Ok(all.into_iter().flatten().collect())
}

/// What came of a service that others wait for.
#[derive(Debug, Clone)]
struct Stage {
    containers: Vec<Running>,
}

struct Bring<'a> {
    engine: &'a ProjectEngine,
    project: &'a Project,
    options: &'a Options,
    say: &'a Say,
    existing: &'a [Found],
    images: &'a BTreeMap<ServiceName, Digest>,
    stages: BTreeMap<&'a ServiceName, watch::Sender<Option<Stage>>>,
    started: mpsc::Sender<Running>,
}

impl Bring<'_> {
    async fn service(&self, name: &ServiceName) -> Result<Vec<Running>, UpError> {
        let Some(image) = self.images.get(name) else { return Ok(Vec::new()) };
        let anew = self.dependencies(name).await?;
        let mut containers = Vec::new();
        let planned = plan::containers(self.project, name, image);
        self.too_many(name, planned.len()).await?;
        for planned in planned {
            let running = self.container(name, &planned, anew).await?;
            (self.say)(Event::Container { name: running.name.clone(), change: running.change });
            // Whoever listened may have gone; the containers are what counts.
            let _heard = self.started.send(running.clone()).await;
            containers.push(running);
        }
        if let Some(stage) = self.stages.get(name) {
            stage.send_replace(Some(Stage { containers: containers.clone() }));
        }
        Ok(containers)
    }

    /// Waits for what the service depends on. Whether one of those was made anew that it is restarted with.
    async fn dependencies(&self, name: &ServiceName) -> Result<bool, UpError> {
        let Some(service) = self.project.services.get(name) else { return Ok(false) };
        let waits = service.said.depends_on.iter().map(|(on, how)| self.dependency(name, on, *how));
        Ok(try_join_all(waits).await?.into_iter().any(|anew| anew))
    }

    async fn dependency(
        &self,
        name: &ServiceName,
        on: &ServiceName,
        how: Dependency,
    ) -> Result<bool, UpError> {
        // One of a profile that is not active; `config` has refused it if it is required.
        let Some(stage) = self.stages.get(on) else { return Ok(false) };
        if how.condition != Condition::ServiceStarted {
            let reason = match how.condition {
                Condition::ServiceCompletedSuccessfully => format!("until {on} has completed"),
                _ => format!("until {on} is healthy"),
            };
            (self.say)(Event::Waiting { service: name.clone(), reason });
        }
        let mut seen = stage.subscribe();
        let Ok(stage) = seen.wait_for(Option::is_some).await.map(|stage| stage.clone()) else {
            return Ok(false);
        };
        let containers = stage.map(|stage| stage.containers).unwrap_or_default();
        let limit = self.options.wait_limit;
        let met = wait::until(self.engine, on, &containers, how.condition, limit).await;
        match met {
            Err(reason) if how.required => {
                return Err(UpError::Dependency { service: name.clone(), reason });
            }
            Err(reason) => {
                (self.say)(Event::Warning(format!("{name} starts although {reason}")));
            }
            Ok(()) => {}
        }
        let anew = containers.iter().any(|running| running.change == Change::Recreated);
        Ok(how.restart && anew)
    }

    async fn container(
        &self,
        name: &ServiceName,
        planned: &Planned,
        anew: bool,
    ) -> Result<Running, UpError> {
        let wish = &planned.wish;
        let running = |id: String, change| Running {
            service: name.clone(),
            index: planned.index,
            name: wish.name.clone(),
            id,
            change,
        };
        let mine = |found: &&Found| found.service == name.as_str() && found.index == planned.index;
        let all: Vec<&Found> = self.existing.iter().filter(mine).collect();
        let (successors, found): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|found| found.name.ends_with(SUCCESSOR));
        let mut old = found.first().copied().cloned();
        for successor in successors {
            // Whoever was at it before us died: its place may be empty already.
            if old.is_none() {
                self.engine.rename(&successor.id, &wish.name).await?;
                old = Some(successor.clone());
            } else {
                self.engine.remove(&successor.id, false).await?;
            }
        }
        match old {
            None => {
                let id = self.make(wish).await?;
                self.engine.start(&id, &wish.name).await?;
                Ok(running(id, Change::Created))
            }
            Some(old) if old.digest == planned.digest => {
                if old.running && !anew {
                    return Ok(running(old.id, Change::Unchanged));
                }
                self.engine.stop(&old.id, &old.name, wish.stop_grace).await?;
                self.engine.start(&old.id, &old.name).await?;
                Ok(running(old.id, Change::Started))
            }
            Some(old) => {
                let id = self.replace(&old, planned).await?;
                Ok(running(id, Change::Recreated))
            }
        }
    }

    /// The new one is there before the old one goes, so that volumes without a name always have a container.
    async fn replace(&self, old: &Found, planned: &Planned) -> Result<String, UpError> {
        let mut wish = plan::inheriting(&planned.wish, &old.volumes);
        let name = std::mem::take(&mut wish.name);
        wish.name = format!("{name}{SUCCESSOR}");
        let id = self.make(&wish).await?;
        self.engine.stop(&old.id, &old.name, wish.stop_grace).await?;
        self.engine.remove(&old.id, false).await?;
        self.engine.rename(&id, &name).await?;
        self.engine.start(&id, &name).await?;
        Ok(id)
    }

    async fn make(&self, wish: &engine::docker::project::Wish) -> Result<String, UpError> {
        let made = self.engine.create(wish).await?;
        for warning in made.warnings {
            (self.say)(Event::Warning(format!("{}: {warning}", wish.name)));
        }
        Ok(made.id)
    }

    /// Removes containers beyond the number of replicas.
    async fn too_many(&self, name: &ServiceName, most: usize) -> Result<(), UpError> {
        let beyond = |found: &&Found| {
            found.service == name.as_str()
                && usize::try_from(found.index).is_ok_and(|index| index > most)
        };
        for found in self.existing.iter().filter(beyond) {
            self.engine.stop(&found.id, &found.name, GRACE).await?;
            self.engine.remove(&found.id, false).await?;
            (self.say)(Event::Removed(found.name.clone()));
        }
        Ok(())
    }
}

/// The project's containers. Those of another project with this name are not touched.
async fn existing(engine: &ProjectEngine, project: &Project) -> Result<Vec<Found>, UpError> {
    let theirs = engine.containers(&[(COMPOSE_PROJECT, &project.name)]).await?;
    if !theirs.is_empty() {
        let names: Vec<&str> = theirs.iter().map(|found| found.name.as_str()).collect();
        return Err(UpError::refused(
            format!(
                "Docker Compose has a project `{}` here already ({}): names and ports would collide",
                project.name,
                names.join(", ")
            ),
            format!(
                "take that one down with `docker compose -p {} down`, or give this one another name with `--project-name`",
                project.name
            ),
        ));
    }
    let ours = engine.containers(&[(PROJECT, &project.name)]).await?;
    let folder = project.folder.to_string_lossy();
    let elsewhere = ours.iter().find_map(|found| {
        let other = found.labels.get(FOLDER).filter(|other| **other != folder)?;
        // Whose folder was moved here is the same.
        std::path::Path::new(other).is_dir().then_some(other)
    });
    match elsewhere {
        Some(other) => Err(UpError::refused(
            format!("a project `{}` runs already from {other}", project.name),
            format!(
                "take it down with `launchway -C {other} down --up`, or give this one another name with `--project-name`"
            ),
        )),
        None => Ok(ours),
    }
}

/// Sees to what is mounted from this machine.
fn folders(project: &Project) -> Result<(), UpError> {
    for (path, must_be_there) in plan::folders(project) {
        if path.exists() {
            continue;
        }
        if must_be_there {
            let message =
                format!("{} is to be mounted read-only, and is not there", path.display());
            return Err(UpError::refused(
                message,
                "write it, or correct its path in the Compose file",
            ));
        }
        std::fs::create_dir_all(&path).map_err(|why| UpError::Io { path, why })?;
    }
    Ok(())
}

/// Networks of the services that run; `default` exists if one is in it.
async fn ensure_networks(
    engine: &ProjectEngine,
    project: &Project,
    say: &Say,
) -> Result<(), UpError> {
    let mut used = BTreeSet::new();
    for service in project.services.values() {
        let networks = &service.said.container.networks;
        used.extend(networks.keys().map(String::as_str));
        used.extend(networks.is_empty().then_some("default"));
    }
    for network in used {
        let said = project.networks.get(network).cloned().unwrap_or_default();
        let name = project.network_name(network);
        if said.external {
            there(engine.network(&name).await?.is_some(), "network", &name)?;
            continue;
        }
        let mut labels = said.labels.clone();
        labels.extend(plan::labels(project));
        let thing = Thing { name, labels, internal: said.internal, options: BTreeMap::new() };
        if engine.ensure_network(&thing).await? == Ensured::Made {
            say(Event::NetworkMade(thing.name));
        }
    }
    Ok(())
}

async fn ensure_volumes(
    engine: &ProjectEngine,
    project: &Project,
    say: &Say,
) -> Result<(), UpError> {
    for (volume, said) in &project.volumes {
        let name = project.volume_name(volume);
        if said.external {
            there(engine.volume(&name).await?.is_some(), "volume", &name)?;
            continue;
        }
        let mut labels = said.labels.clone();
        labels.extend(plan::labels(project));
        let thing = Thing { name, labels, internal: false, options: said.options.clone() };
        match engine.ensure_volume(&thing).await? {
            Ensured::Made => say(Event::VolumeMade(thing.name)),
            Ensured::There(labels) if labels.get(PROJECT) != Some(&project.name) => {
                say(Event::VolumeUsed(thing.name));
            }
            Ensured::There(_) => {}
        }
    }
    Ok(())
}

fn there(is: bool, kind: &str, name: &str) -> Result<(), UpError> {
    if is {
        return Ok(());
    }
    let message = format!("the {kind} {name} is external, and is not there");
    Err(UpError::refused(
        message,
        format!("make it with `docker {kind} create {name}`, or remove `external`"),
    ))
}

/// Containers of services that the file does not have.
async fn orphans(
    engine: &ProjectEngine,
    project: &Project,
    existing: &[Found],
    options: &Options,
    say: &Say,
) -> Result<(), UpError> {
    let orphans: Vec<&Found> =
        existing.iter().filter(|found| !project.known.contains(&found.service)).collect();
    if orphans.is_empty() {
        return Ok(());
    }
    if !options.remove_orphans {
        let names: Vec<&str> = orphans.iter().map(|found| found.name.as_str()).collect();
        say(Event::Warning(format!(
            "of services that the file does not have any more: {}; `--remove-orphans` removes them",
            names.join(", ")
        )));
        return Ok(());
    }
    let gone = join_all(orphans.iter().map(|found| async {
        engine.stop(&found.id, &found.name, GRACE).await?;
        engine.remove(&found.id, false).await?;
        say(Event::Removed(found.name.clone()));
        Ok::<(), UpError>(())
    }));
    gone.await.into_iter().collect()
}

/// What the containers depend on, as their labels say, by service.
pub(super) fn depends(containers: &[Found]) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for found in containers {
        let on = found.labels.get(DEPENDS).map_or("", String::as_str).split(',');
        let on = on.filter(|name| !name.is_empty()).map(str::to_owned);
        all.entry(found.service.clone()).or_default().extend(on);
    }
    all
}
