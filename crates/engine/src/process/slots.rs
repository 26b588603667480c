//! Brings a slot to what is asked: starts what is missing, replaces what differs, stops what is too much.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use domain::slot::{Color, Launch, ServiceSpec, SlotSpec};
use domain::{Digest, EnvironmentName};
use nix::sys::signal::Signal;

use super::ProcessEngine;
use crate::EngineError;
use crate::proc;
use crate::unit::{Backoff, LogPlan, Mode, Phase, Unit, UnitSpec, read_json, write_json};

/// Where its tree lies. [`ProcessEngine::check`] refuses what has none.
pub(super) fn folder_of(service: &ServiceSpec) -> &Path {
    service.artifact.folder().unwrap_or(Path::new(""))
}

impl ProcessEngine {
    pub(super) async fn apply_slot(&self, spec: &SlotSpec) -> Result<(), EngineError> {
        let doing =
            || format!("applying {} to {} in {}", spec.release, spec.slot, spec.environment);
        let failed = |error: std::io::Error| EngineError::new(doing(), error.to_string());
        let record = self.layout.slot(&spec.environment, spec.slot);
        let _guard = self.keeper.guard(&record).await;
        self.config.own_folder(&self.config.home(), 0o755).map_err(failed)?;
        for service in &spec.services {
            self.check(service).map_err(|why| EngineError::new(doing(), why))?;
        }
        if read_json::<SlotSpec>(&record).as_ref() != Some(spec) {
            fs::create_dir_all(record.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
            write_json(&record, spec, true).map_err(failed)?;
        }
        let mut wanted = Vec::new();
        for service in spec.services.iter().filter(|service| runs(service)) {
            for index in 0..service.replicas {
                let unit = self.layout.replica(&spec.environment, spec.slot, &service.name, index);
                wanted.push((unit, service, index));
            }
        }
        for unit in self.layout.replicas(&spec.environment, spec.slot) {
            if wanted.iter().all(|(wanted, ..)| *wanted != unit) {
                self.keeper.stop(&unit).await?;
            }
        }
        let starts = wanted.iter().map(|(unit, service, index)| {
            let make = || self.replica_spec(spec, service, *index);
            let digest = digest_of(spec, service);
            async move { self.keeper.ensure(unit, &digest, true, make).await }
        });
        join_all(starts.collect()).await
    }

    fn check(&self, service: &ServiceSpec) -> Result<(), String> {
        let folder = folder_of(service);
        if !folder.is_dir() {
            return Err(format!(
                "the artifact of {} is not a folder: {}; build the release again",
                service.name, service.artifact.location
            ));
        }
        match service.launch {
            Launch::Command(_) => self.config.check_reach(folder),
            Launch::Static(_) => Ok(()),
            Launch::Container(_) => {
                Err(format!("{} is a container: that is for the docker engine", service.name))
            }
        }
    }

    fn replica_spec(&self, slot: &SlotSpec, service: &ServiceSpec, index: u32) -> UnitSpec {
        let Launch::Command(command) = &service.launch else {
            unreachable!("only services with a command are started")
        };
        let mut env = self.config.base_env();
        env.extend(service.env.clone());
        env.extend(markers(slot, service, index));
        UnitSpec {
            digest: digest_of(slot, service),
            command: vec!["/bin/sh".into(), "-c".into(), command.clone()],
            folder: folder_of(service).to_owned(),
            env,
            port: None,
            user: self.config.run_as.as_ref().map(|user| user.ids()),
            mode: Mode::Keep(Backoff::default()),
            stop_signal: Signal::SIGTERM as i32,
            grace: service.stop_grace,
            log: LogPlan::rotating(),
        }
    }

    pub(super) async fn remove_slot(
        &self,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<(), EngineError> {
        let record = self.layout.slot(environment, slot);
        let _guard = self.keeper.guard(&record).await;
        let units = self.layout.replicas(environment, slot);
        join_all(units.iter().map(|unit| self.keeper.stop(unit)).collect()).await?;
        // Last: a crash before this is seen, and the removal repeated.
        forget(&record)
    }

    pub(super) async fn take_down(
        &self,
        environment: &EnvironmentName,
        with_data: bool,
    ) -> Result<(), EngineError> {
        for slot in [Color::Blue, Color::Green] {
            self.remove_slot(environment, slot).await?;
        }
        // What ran once and has ended keeps its record, so that it does not run again.
        let ended = |unit: &Unit| unit.status().is_some_and(|s| s.phase == Phase::Ended);
        let mut units = self.layout.all(environment);
        units.retain(|unit| unit.attended() || !ended(unit) || !unit.once());
        join_all(units.iter().map(|unit| self.keeper.stop(unit)).collect()).await?;
        for unit in self.layout.backings(environment) {
            forget(&unit.folder().join("backing.json"))?;
        }
        let folder = self.layout.environment(environment);
        let prefix = format!("{}/", folder.display());
        super::keeper::blocking(move || {
            proc::kill_leftovers(None, |unit| unit.starts_with(&prefix));
            match with_data {
                true => delete(&folder),
                false => Ok(()),
            }
        })
        .await
    }
}

/// A static service has no process.
pub(super) fn runs(service: &ServiceSpec) -> bool {
    matches!(service.launch, Launch::Command(_))
}

/// All that needs a restart when it changes; how many there are and how they are asked does not.
pub(super) fn digest_of(slot: &SlotSpec, service: &ServiceSpec) -> String {
    let launch = (&service.artifact, &service.launch, &service.env, service.stop_grace);
    let asked = serde_json::json!([slot.app, slot.release, service.name, launch]);
    Digest::of(asked.to_string()).to_string()
}

fn markers(slot: &SlotSpec, service: &ServiceSpec, index: u32) -> BTreeMap<String, String> {
    let named = [
        ("APP", slot.app.to_string()),
        ("ENVIRONMENT", slot.environment.to_string()),
        ("RELEASE", slot.release.to_string()),
        ("SLOT", slot.slot.to_string()),
        ("SERVICE", service.name.to_string()),
        ("REPLICA", index.to_string()),
    ];
    named.into_iter().map(|(name, value)| (format!("LAUNCHWAY_{name}"), value)).collect()
}

/// Runs all side by side; answers the first failure after all have ended.
async fn join_all<F>(all: Vec<F>) -> Result<(), EngineError>
where
    F: Future<Output = Result<(), EngineError>>,
{
    let mut pinned: Vec<_> = all.into_iter().map(|future| Some(Box::pin(future))).collect();
    let mut result = Ok(());
    std::future::poll_fn(|context| {
        for slot in &mut pinned {
            let Some(future) = slot else { continue };
            if let std::task::Poll::Ready(answer) = future.as_mut().poll(context) {
                result = std::mem::replace(&mut result, Ok(())).and(answer);
                *slot = None;
            }
        }
        match pinned.iter().all(Option::is_none) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    result
}

fn forget(record: &Path) -> Result<(), EngineError> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            let doing = format!("deleting {}", record.display());
            Err(EngineError::new(doing, error.to_string()))
        }
        _ => Ok(()),
    }
}

/// Renamed first, so that a crash in the middle leaves no half of a data folder behind.
fn delete(folder: &Path) -> Result<(), EngineError> {
    let failed = |error: std::io::Error| {
        EngineError::new(format!("deleting {}", folder.display()), error.to_string())
    };
    let condemned = folder.with_extension("deleted");
    if condemned.exists() {
        fs::remove_dir_all(&condemned).map_err(failed)?;
    }
    if !folder.exists() {
        return Ok(());
    }
    fs::rename(folder, &condemned).map_err(failed)?;
    fs::remove_dir_all(&condemned).map_err(failed)
}
