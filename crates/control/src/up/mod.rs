//! `launchway up`: a Compose project on this machine's Docker Engine, from its Compose file alone. No server, no state
//! folder: what runs says by its labels what it is, so the next `up` and `down` find it, whoever died meanwhile.
//!
//! ```text
//! project   the Compose file, .env and env_file  ──▶ Project
//! plan      Project ──▶ what each container is made of, and the digest that says whether it changed
//! images    built or pulled
//! bring     networks, volumes, images, then every service as soon as what it depends on is there
//! wait      depends_on's conditions, each with a deadline and a reason
//! attach    bring, and what all containers write until they end
//! down      stopped in reverse order, and removed;  look: what there is
//! ```

mod attach;
mod bring;
mod down;
mod images;
mod look;
mod plan;
mod project;
mod wait;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::ServiceName;
use domain::config::Mistake;
use engine::EngineError;
use engine::docker::build::BuildError;
use engine::docker::project::{Phase, Stream};

pub use attach::attached;
pub use bring::bring_up;
pub use down::{Taken, stop, take_down};
pub use look::{Standing, show_logs, standing};
pub use project::{Asked, Project, Read, Service};

/// How it is brought up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Build images that are there already, too.
    pub build: bool,
    /// Remove containers of services that the file does not have any more.
    pub remove_orphans: bool,
    /// For each wait.
    pub wait_limit: Duration,
}

/// A container that was brought up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub service: ServiceName,
    pub index: u32,
    pub name: String,
    pub id: String,
    pub change: Change,
}

/// What was done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It ran already, and is as the file says.
    Unchanged,
    Created,
    /// What it is made of has changed.
    Recreated,
    /// It was there and did not run, or something it depends on was made anew.
    Started,
}

/// What happens meanwhile, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    NetworkMade(String),
    VolumeMade(String),
    /// It was there, made by somebody else, and is used as it is.
    VolumeUsed(String),
    Building(ServiceName),
    /// A line of what a build or pull says.
    Built(ServiceName, String),
    Pulling(String),
    Container {
        name: String,
        change: Change,
    },
    /// Why it does not start yet.
    Waiting {
        service: ServiceName,
        reason: String,
    },
    Warning(String),
    Line {
        service: ServiceName,
        name: String,
        stream: Stream,
        text: String,
    },
    /// `None`: it was removed by somebody.
    Ended {
        name: String,
        phase: Option<Phase>,
    },
    Stopping(String),
    Removed(String),
}

/// Whoever wants to know.
pub type Say = Arc<dyn Fn(Event) + Send + Sync>;

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The Compose file has mistakes; nothing was changed.
    #[error("{path} has mistakes")]
    Mistakes { mistakes: Vec<Mistake>, path: String, text: String },
    /// It cannot be done as it is; nothing was changed.
    #[error("{message}")]
    Refused { message: String, help: String },
    /// `place`: `web/Dockerfile:3: `RUN make`: `, or nothing.
    #[error("building the image of {service}: {place}{why}")]
    Build { service: ServiceName, place: String, why: BuildError },
    #[error("pulling the image {image}: {why}")]
    Pull { image: String, why: BuildError },
    /// A service that others wait for did not become what they wait for.
    #[error("{service} was not started: {reason}")]
    Dependency { service: ServiceName, reason: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("reading {}: {why}", path.display())]
    Io { path: PathBuf, why: std::io::Error },
}

impl UpError {
    fn refused(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), help: help.into() }
    }
}
