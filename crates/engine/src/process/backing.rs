//! Backing services: what Compose runs from an image alone, here run from the machine's own programs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use domain::Digest;
use domain::slot::BackingSpec;
use serde::{Deserialize, Serialize};

use super::observe::{local, why_down};
use super::{ProcessEngine, postgres, redis};
use crate::EngineError;
use crate::unit::{Backoff, LogPlan, Mode, UnitSpec, write_json};

/// Recovery after a crash may take PostgreSQL a while.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What is known about a backing service on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BackingRecord {
    pub(super) spec: BackingSpec,
}

/// What kind of server an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Redis,
}

/// The programs and data of one server, ready to be started.
pub(super) struct Server {
    pub(super) command: Vec<String>,
    pub(super) folder: PathBuf,
    pub(super) stop_signal: i32,
}

impl BackingRecord {
    /// Whether it takes work.
    pub(super) async fn ping(&self, address: SocketAddr) -> Result<(), String> {
        const LIMIT: Duration = Duration::from_secs(2);
        let asking = async {
            match kind(&self.spec.image)? {
                Kind::Postgres => postgres::ping(address, &self.spec).await,
                Kind::Redis => redis::ping(address).await,
            }
        };
        let late = |_| Err(format!("{address} did not answer within {LIMIT:?}"));
        tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(late)
    }
}

impl ProcessEngine {
    pub(super) async fn back_service(&self, spec: &BackingSpec) -> Result<SocketAddr, EngineError> {
        let failed = |why: String| {
            let doing =
                format!("starting {} ({}) in {}", spec.service, spec.image, spec.environment);
            EngineError::new(doing, why)
        };
        let data = self.layout.data(&spec.environment, &spec.service);
        let _guard = self.keeper.guard(&data).await;
        let kind = kind(&spec.image).map_err(failed)?;
        self.prepare_folders(&data).map_err(failed)?;
        let server = match kind {
            Kind::Postgres => self.prepare_postgres(spec, &data).await,
            Kind::Redis => self.prepare_redis(&data),
        }
        .map_err(failed)?;
        let unit = self.layout.backing(&spec.environment, &spec.service);
        let record = BackingRecord { spec: spec.clone() };
        fs::create_dir_all(unit.folder()).map_err(|error| failed(error.to_string()))?;
        write_json(&unit.folder().join("backing.json"), &record, true)
            .map_err(|error| failed(error.to_string()))?;
        let asked = serde_json::json!([spec.image, server.command]);
        let digest = Digest::of(asked.to_string()).to_string();
        let make = || self.server_spec(spec, server, &digest);
        self.keeper.ensure(&unit, &digest, true, make).await?;
        let address = self.until_ready(&record).await.map_err(failed)?;
        if kind == Kind::Postgres {
            self.open_postgres(spec, &data, address).await.map_err(failed)?;
        }
        Ok(address)
    }

    fn prepare_folders(&self, data: &Path) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        self.config.own_folder(&self.config.home(), 0o755).map_err(text)?;
        let parent = data.parent().unwrap_or(Path::new("/"));
        self.config.own_folder(parent, 0o755).map_err(text)?;
        self.config.check_reach(parent)
    }

    fn server_spec(&self, spec: &BackingSpec, server: Server, digest: &str) -> UnitSpec {
        let mut env = self.config.base_env();
        env.insert("LAUNCHWAY_APP".into(), spec.app.to_string());
        env.insert("LAUNCHWAY_ENVIRONMENT".into(), spec.environment.to_string());
        env.insert("LAUNCHWAY_SERVICE".into(), spec.service.to_string());
        UnitSpec {
            digest: digest.to_owned(),
            command: server.command,
            folder: server.folder,
            env,
            port: None,
            user: self.config.run_as.as_ref().map(|user| user.ids()),
            mode: Mode::Keep(Backoff { most: Duration::from_secs(5), ..Backoff::default() }),
            stop_signal: server.stop_signal,
            grace: Duration::from_secs(60),
            log: LogPlan::rotating(),
        }
    }

    /// Waits until it takes work; one that ends again and again fails before the deadline.
    async fn until_ready(&self, record: &BackingRecord) -> Result<SocketAddr, String> {
        const TRIES: u32 = 6;
        let unit = self.layout.backing(&record.spec.environment, &record.spec.service);
        let before = unit.status().map_or(0, |status| status.restarts);
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if !unit.spec_path().exists() {
                return Err("it was stopped meanwhile".to_owned());
            }
            let (status, up) = self.attended(&unit).await.unzip();
            let address = local(unit.port().unwrap_or(0));
            let problem = match (up.flatten(), &status) {
                (Some(_), _) => match record.ping(address).await {
                    Ok(()) => return Ok(address),
                    Err(problem) => problem,
                },
                (None, Some(status)) => why_down(&unit, status).await,
                (None, None) => "its supervisor has not reported yet".to_owned(),
            };
            let hopeless = status.is_some_and(|status| status.restarts >= before + TRIES);
            if hopeless || Instant::now() > deadline {
                return Err(format!("it is not ready: {problem}; see `launchway logs`"));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

/// Which server an image stands for.
pub(crate) fn kind(image: &str) -> Result<Kind, String> {
    match name_and_tag(image).0 {
        "postgres" => Ok(Kind::Postgres),
        "redis" => Ok(Kind::Redis),
        other => Err(format!(
            "the process engine cannot run the image `{other}`: it knows `postgres` and `redis`; use an environment with `engine: docker` for others"
        )),
    }
}

/// The major version that the tag asks for: 16 of `postgres:16-alpine`.
pub(super) fn major(image: &str) -> Option<u32> {
    let digits = |text: &str| text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    digits(name_and_tag(image).1)
}

fn name_and_tag(image: &str) -> (&str, &str) {
    let without_digest = image.split('@').next().unwrap_or(image);
    let last = without_digest.rsplit('/').next().unwrap_or(without_digest);
    last.split_once(':').unwrap_or((last, ""))
}

/// The first folder that has all these programs: those on `$PATH`, then `others`.
pub(super) fn folders_with(programs: &[&str], others: Vec<PathBuf>) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual =
        ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/home/linuxbrew/.linuxbrew/bin"];
    let all = std::env::split_paths(&path).chain(usual.map(PathBuf::from)).chain(others);
    all.filter(|folder| programs.iter().all(|program| folder.join(program).is_file())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_says_which_server_and_which_version_it_is() {
        assert_eq!(kind("postgres:16-alpine"), Ok(Kind::Postgres));
        assert_eq!(kind("docker.io/library/redis"), Ok(Kind::Redis));
        assert_eq!(kind("localhost:5000/postgres@sha256:00"), Ok(Kind::Postgres));
        assert!(kind("mysql:8").unwrap_err().contains("mysql"));
        assert_eq!(major("postgres:16-alpine"), Some(16));
        assert_eq!(major("postgres:latest"), None);
        assert_eq!(major("postgres"), None);
    }
}
