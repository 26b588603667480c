//! What each container uses: CPU time, memory without what the kernel only caches, disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bollard::models::{ContainerMemoryStats, ContainerSummary};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use domain::slot::{Color, Usage};
use domain::{EnvironmentName, ServiceName};
use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};

use super::DockerEngine;
use super::connect::{Trouble, is_missing};
use super::labels;
use super::state::{self, Life};
use crate::EngineError;

/// What inspecting a running container tells.
struct Footprint {
    pid: u32,
    started: String,
    /// What it wrote into its own layer, its output, and its volumes where we may look at them; bytes.
    disk: u64,
}

impl DockerEngine {
    pub(super) async fn use_of(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Vec<Usage>, EngineError> {
        let nothing_here = self.records.slots(environment).is_empty()
            && self.records.backings(environment).is_empty();
        if nothing_here {
            return Ok(Vec::new());
        }
        let measured = self.measure(environment).await;
        measured.map_err(|trouble| {
            EngineError::new(format!("measuring what {environment} uses"), trouble.to_string())
        })
    }

    async fn measure(&self, environment: &EnvironmentName) -> Result<Vec<Usage>, Trouble> {
        let found = self.containers(&[(labels::ENVIRONMENT, environment.as_str())]).await?;
        let ours = found.iter().filter(|c| labels::get(&c.labels, labels::JOB).is_empty());
        let all: FuturesUnordered<_> = ours.map(|found| self.measure_one(found)).collect();
        let mut usage: Vec<Usage> =
            all.try_collect::<Vec<_>>().await?.into_iter().flatten().collect();
        usage.sort_by(|a, b| (a.slot, &a.service, a.index).cmp(&(b.slot, &b.service, b.index)));
        Ok(usage)
    }

    /// `None` if it does not run.
    async fn measure_one(&self, found: &ContainerSummary) -> Result<Option<Usage>, Trouble> {
        let part = |name| labels::get(&found.labels, name);
        let Ok(service) = ServiceName::new(part(labels::SERVICE)) else { return Ok(None) };
        let id = found.id.as_deref().unwrap_or_default();
        let docker = self.docker().await?;
        let options = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let stats = match Box::pin(docker.stats(id, Some(options))).next().await {
            Some(Ok(stats)) => stats,
            Some(Err(error)) if !is_missing(&error) => return Err(self.trouble(error)),
            _ => return Ok(None),
        };
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).unwrap_or(0);
        // A container that does not run has no figures.
        let Some(memory) = stats.memory_stats.filter(|memory| memory.usage.is_some()) else {
            return Ok(None);
        };
        let Some(Footprint { pid, started, disk }) = self.footprint(id).await? else {
            return Ok(None);
        };
        let slot =
            [Color::Blue, Color::Green].into_iter().find(|c| c.as_str() == part(labels::SLOT));
        Ok(Some(Usage {
            slot,
            service,
            index: part(labels::INDEX).parse().unwrap_or(0),
            pid,
            started,
            cpu: Duration::from_nanos(cpu),
            memory: resident(&memory),
            disk,
        }))
    }

    /// `None` if it does not run.
    async fn footprint(&self, id: &str) -> Result<Option<Footprint>, Trouble> {
        let options = InspectContainerOptionsBuilder::new().size(true).build();
        let found = match self.docker().await?.inspect_container(id, Some(options)).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(self.trouble(error)),
        };
        let Life::Running { pid: Some(pid) } = state::life(&found) else { return Ok(None) };
        let started = found.state.and_then(|state| state.started_at).unwrap_or_default();
        let layer = found.size_rw.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let mut paths: Vec<String> =
            found.log_path.into_iter().filter(|path| !path.is_empty()).collect();
        let mounts = found.mounts.unwrap_or_default();
        let volumes = mounts.into_iter().filter(|mount| mount.name.is_some());
        paths.extend(volumes.filter_map(|mount| mount.source));
        let on_disk = tokio::task::spawn_blocking(move || {
            paths.iter().map(|path| size_of(Path::new(path))).sum::<u64>()
        });
        let disk = layer + on_disk.await.unwrap_or(0);
        Ok(Some(Footprint { pid, started, disk }))
    }
}

/// Without the file pages that the kernel gives back at once: `total_inactive_file` of cgroup v1, `inactive_file` of v2.
fn resident(memory: &ContainerMemoryStats) -> u64 {
    let named = |name: &str| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let cached = named("total_inactive_file").or_else(|| named("inactive_file")).unwrap_or(0);
    memory.usage.unwrap_or(0).saturating_sub(cached)
}

/// What lies below, as it occupies the disk; nothing of what we may not read.
fn size_of(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    own + entries.map(|entry| size_of(&entry.path())).sum::<u64>()
}
