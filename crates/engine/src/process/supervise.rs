//! Units of the app itself, which no environment owns: the edge.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use domain::Digest;
use nix::sys::signal::Signal;

use super::ProcessEngine;
use crate::EngineError;
use crate::unit::{Backoff, LogPlan, Mode, UnitSpec, UnitStatus};

/// A supervised unit as it is found.
#[derive(Debug, Clone)]
pub struct Supervised {
    /// It is started again should its shim be killed.
    pub wanted: bool,
    /// A shim runs for it.
    pub attended: bool,
    /// What its shim said last.
    pub status: Option<UnitStatus>,
}

impl Supervised {
    /// The process of its command, if it runs.
    pub fn pid(&self) -> Option<u32> {
        let status = self.status.as_ref().filter(|_| self.attended)?;
        status.child.map(|child| child.pid)
    }
}

/// Names what is asked of [`ProcessEngine::supervise`], as [`UnitStatus::digest`] does.
pub fn supervised_digest(
    command: &[String],
    env: &BTreeMap<String, String>,
    as_root: bool,
) -> String {
    Digest::of(serde_json::json!([command, env, as_root]).to_string()).to_string()
}

impl ProcessEngine {
    /// Makes sure that `command` runs under a shim of its own; another command replaces it. It is started again
    /// until it ends with exit code 0.
    pub async fn supervise(
        &self,
        name: &str,
        command: Vec<OsString>,
        env: BTreeMap<String, String>,
        as_root: bool,
    ) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::new(format!("starting {name}"), why);
        let command: Vec<String> = command
            .into_iter()
            .map(OsString::into_string)
            .collect::<Result<_, _>>()
            .map_err(|text| failed(format!("{} is not UTF-8", text.to_string_lossy())))?;
        self.config
            .own_folder(&self.config.home(), 0o755)
            .map_err(|error| failed(error.to_string()))?;
        let digest = supervised_digest(&command, &env, as_root);
        let user = self.config.run_as.as_ref().filter(|_| !as_root).map(|user| user.ids());
        let make = || UnitSpec {
            digest: digest.clone(),
            command,
            folder: "/".into(),
            env: self.config.base_env().into_iter().chain(env).collect(),
            port: None,
            user,
            // All traffic waits for the edge, so it is back at once; one that cannot run is not spun on.
            mode: Mode::Keep(Backoff {
                first: Duration::from_millis(5),
                most: Duration::from_secs(5),
                until_success: true,
                ..Backoff::default()
            }),
            stop_signal: Signal::SIGTERM as i32,
            grace: Duration::from_secs(30),
            log: LogPlan::rotating(),
        };
        self.keeper.ensure(&self.layout.supervised(name), &digest, false, make).await
    }

    /// How it is. Looks, and changes nothing.
    pub fn look_at_supervised(&self, name: &str) -> Supervised {
        let unit = self.layout.supervised(name);
        let (wanted, attended) = (unit.spec_path().exists(), unit.attended());
        Supervised { wanted, attended, status: unit.status() }
    }

    /// Lets it run to its own end, after which it is not started again.
    pub async fn dismiss(&self, name: &str) {
        let unit = self.layout.supervised(name);
        let _guard = self.keeper.guard(unit.folder()).await;
        // The record of what is asked; gone already is as good.
        let _ = std::fs::remove_file(unit.spec_path());
    }

    /// How it is. Starts it again if its shim was killed; `None` if it is not wanted.
    pub async fn supervised(&self, name: &str) -> Option<UnitStatus> {
        let unit = self.layout.supervised(name);
        if !unit.spec_path().exists() {
            return None;
        }
        self.attended(&unit).await.map(|(status, _)| status)
    }

    /// Its last output, oldest first.
    pub async fn supervised_logs(&self, name: &str, lines: usize) -> Vec<String> {
        let unit = self.layout.supervised(name);
        super::keeper::blocking(move || super::tail::of_unit(&unit, lines)).await
    }

    /// Stops it and everything it started.
    pub async fn stop_supervised(&self, name: &str) -> Result<(), EngineError> {
        self.keeper.stop(&self.layout.supervised(name)).await
    }
}
