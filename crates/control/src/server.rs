//! A whole server, assembled: state folder, engine, edge, pipeline, loop and watchers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use domain::RunId;
use domain::app::{App, Event};
use domain::certificate::{Pace, wishes};
use domain::{CommitId, EnvironmentName, Identity};
use engine::process::{ProcessConfig, ProcessEngine, ShimCommand, Unprivileged, lasting_port};
use engine::{Abandoned, DockerConfig, DockerEngine, Engine, EngineError};
use ipnet::IpNet;
use store::{Lock, Store};
use tokio_util::sync::CancellationToken;

use crate::certificates::{Keeper, KeeperConfig};
use crate::control::{Control, Declined, Handle, OpenError};
use crate::edges::{self, Edges};
use crate::effects::Performer;
use crate::engines::Engines;
use crate::pipeline::{Images, Pipeline, PipelineConfig, PipelineError, RunAs};
use crate::world::World;
use crate::{branches, housekeeping, reconcile};

/// What the names begin with under which the engine supervises edges.
pub const EDGE: &str = "edge";

/// How to build a [`Server`].
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Everything a server remembers.
    pub state: PathBuf,
    /// The project's folder, in its git repository.
    pub project: PathBuf,
    /// This program: it becomes `shim` and `edge` too.
    pub program: PathBuf,
    /// Where the edge carries traffic; port 0 takes a free one, once.
    pub listen: SocketAddr,
    pub https: Https,
    /// Proxies in front of the edge, whose word about the client is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The edge writes a line for each request.
    pub access_log: bool,
}

/// Where the edge carries TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Https {
    /// Where the server before had it, or nowhere: a restart without the flag changes nothing.
    #[default]
    AsBefore,
    Off,
    /// Port 0 takes a free one, once.
    At(SocketAddr),
}

/// A server that has not begun yet.
pub struct Server {
    pub handle: Handle,
    pub world: Arc<World>,
    engine: Arc<ProcessEngine>,
    /// What a server before this one left running inside of containers.
    commands: (Arc<DockerEngine>, Abandoned),
    images: Arc<Images>,
    config: ServerConfig,
    control: Control<Performer>,
    lock: Lock,
    keeper: KeeperConfig,
}

/// How often files of certificates are looked at, and whether a CA has to be asked.
const CERTIFICATES: Duration = Duration::from_secs(1);

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("preparing {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error(
        "{user} may not enter {folder}, and servers never run as root; choose another state folder \
         with --state or LAUNCHWAY_STATE, for example /var/lib/launchway"
    )]
    Barred { user: String, folder: PathBuf },
    #[error("the edge cannot listen on {address}: {source}; choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Declined(#[from] Declined),
}

impl Server {
    /// Takes the state folder, folds the log and gets the hands ready. Nothing is started yet.
    pub async fn open(config: ServerConfig) -> Result<Self, ServerError> {
        make_folder(&config.state)?;
        let lock = Lock::take(&config.state)?;
        let run_as = Unprivileged::detect()?;
        if let Some(user) = &run_as
            && let Some(folder) = user.barred_from(&config.state)
        {
            return Err(ServerError::Barred { user: user.name.clone(), folder });
        }
        let shim = ShimCommand { program: config.program.clone(), args: vec!["shim".into()] };
        let engine_config =
            ProcessConfig { state: config.state.clone(), shim, run_as: run_as.clone() };
        let engine = Arc::new(ProcessEngine::new(engine_config));
        let images = Arc::new(Images::new(&config.state));
        let docker = DockerConfig { state: config.state.clone(), socket: None };
        let docker = Arc::new(DockerEngine::connect(docker));
        let abandoned = docker.abandoned();
        let engines: Arc<dyn Engine> = Arc::new(Engines::new(engine.clone(), docker.clone()));
        let pipeline = Pipeline::new(PipelineConfig {
            state: config.state.clone(),
            repository: config.project.clone(),
            engine: engines.clone(),
            images: images.clone(),
            run_as: run_as.map(|user| RunAs { uid: user.uid, gid: user.gid }),
            environment: std::env::vars().collect(),
        })?;
        let listen = settle_address(&config.state, "listen", config.listen)?;
        let https = settle_https(&config)?;
        let edge = edge::Client::new(edge_folder(&config.state).join("control.sock"));
        let world = Arc::new(World::new(engines, edge, pipeline, listen, https));
        let store = Store::open(&config.state).await?;
        let keeper = KeeperConfig {
            store: store.clone(),
            edge: world.edge.clone(),
            project: config.project.clone(),
            http: listen,
            https,
            pace: Pace::default(),
            every: CERTIFICATES,
        };
        let performer = Arc::new(Performer::new(world.clone()));
        let (control, handle) = Control::open(store, performer).await?;
        let commands = (docker, abandoned);
        Ok(Self { handle, world, engine, commands, images, config, control, lock, keeper })
    }

    /// What runs processes, for those who look closer than [`World::engine`] lets them.
    pub fn engine(&self) -> Arc<ProcessEngine> {
        self.engine.clone()
    }

    /// Runs until `stop`. Edge, replicas and backing services go on without it.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServerError> {
        let edges = self.start_edge().await?;
        self.world.pipeline.sweep(&under_way(&self.handle.app())).await?;
        let keeper = Keeper::open(self.keeper, self.world.certificates.clone()).await?;
        let apps = self.handle.clone();
        let (docker, abandoned) = self.commands;
        let watchers = [
            tokio::spawn(housekeeping::end_commands(docker, abandoned)),
            tokio::spawn(keeper.run(move || wishes(&apps.app()), self.handle.watch())),
            tokio::spawn(branches::watch(self.world.clone(), self.handle.clone())),
            tokio::spawn(reconcile::reconcile(self.world.clone(), self.handle.clone())),
            tokio::spawn(housekeeping::keep_house(
                self.world.clone(),
                self.images.clone(),
                self.handle.clone(),
            )),
            tokio::spawn(edges.keep()),
        ];
        let ended = self.control.run(stop).await;
        watchers.iter().for_each(tokio::task::JoinHandle::abort);
        drop(self.lock);
        Ok(ended?)
    }

    /// Until `stop`, ends and takes away what there is: no branch is watched and nothing is begun.
    pub async fn take_down(self, stop: CancellationToken) -> Result<(), ServerError> {
        self.handle.close(true);
        let app = self.handle.app();
        // It has to forget its routes before what they lead to is taken away.
        let keeper = if app.environments.is_empty() {
            None
        } else {
            Some(tokio::spawn(self.start_edge().await?.keep()))
        };
        let ended = self.control.only_takes_down().run(stop).await;
        keeper.iter().for_each(tokio::task::JoinHandle::abort);
        drop(self.lock);
        Ok(ended?)
    }

    /// The build pipeline alone: one run of `commit` to its end, without edge, branches or rollouts.
    pub async fn run_once(
        self,
        commit: CommitId,
        by: Identity,
        progress: impl FnOnce(Handle, RunId) + Send,
    ) -> Result<Arc<App>, ServerError> {
        let stop = CancellationToken::new();
        let id = self.handle.app().next_run_id();
        let mut states = self.handle.watch();
        let handle = self.handle.clone();
        let control = tokio::spawn(self.control.only_runs().run(stop.clone()));
        let event = Event::RunRequested { commit, branch: None, deploy_to: None, by };
        handle.offer(event).await?;
        progress(handle, id.clone());
        let ended = |app: &Arc<App>| app.runs.get(&id).is_none_or(|run| run.ended() && run.cleaned);
        let last = states.wait_for(ended).await.map(|app| app.clone());
        stop.cancel();
        match control.await {
            Ok(ended) => ended?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
        last.map_err(|_| Declined::Stopping.into())
    }

    async fn start_edge(&self) -> Result<Edges, ServerError> {
        let folder = edge_folder(&self.config.state);
        make_folder(&folder)?;
        let text = |path: &Path| {
            let failed = || {
                EngineError::new("starting the edge", format!("{} is not UTF-8", path.display()))
            };
            path.to_str().map(str::to_owned).ok_or_else(failed)
        };
        let mut command = vec![text(&self.config.program)?, "edge".into(), "--take-over".into()];
        command.extend(["--listen".into(), self.world.listen.to_string()]);
        command.extend(["--folder".into(), text(&folder)?]);
        if let Some(https) = self.world.https {
            command.extend(["--https".into(), https.to_string()]);
        }
        for proxy in &self.config.trusted_proxies {
            command.extend(["--trusted-proxy".into(), proxy.to_string()]);
        }
        command.extend(self.config.access_log.then(|| "--access-log".into()));
        let edges = Edges {
            engine: self.engine.clone(),
            client: self.world.edge.clone(),
            program: self.config.program.clone(),
            command,
        };
        edges.ensure().await?;
        Ok(edges)
    }
}

/// Stops the edge for good: the last thing of `launchway down`.
pub async fn stop_edge(engine: &ProcessEngine) -> Result<(), engine::EngineError> {
    edges::stop(engine).await
}

/// Whether an edge runs, or shall.
pub fn has_edge(engine: &ProcessEngine) -> bool {
    edges::any(engine)
}

/// Where the edge keeps its table and its control socket.
pub fn edge_folder(state: &Path) -> PathBuf {
    state.join("edge")
}

/// Scopes of the pipeline whose checkouts and throwaway environments are still in use.
fn under_way(app: &App) -> BTreeSet<String> {
    let runs = app.runs.values().filter(|run| !run.ended()).map(|run| run.id.to_string());
    let checks = app.rollouts.values().filter(|rollout| rollout.under_way()).flat_map(|rollout| {
        (0..rollout.gates.checks.len()).map(move |index| format!("{}-{index}", rollout.id))
    });
    runs.chain(checks).collect()
}

fn make_folder(path: &Path) -> Result<(), ServerError> {
    std::fs::create_dir_all(path).map_err(|source| ServerError::Io { path: path.into(), source })
}

/// The address the edge always had; or the wished one, with a port that stays free for it in the place of 0.
fn settle_address(
    state: &Path,
    name: &str,
    address: SocketAddr,
) -> Result<SocketAddr, ServerError> {
    let folder = edge_folder(state);
    make_folder(&folder)?;
    let path = folder.join(name);
    if let Some(known) = kept_address(&path)
        && fits(address, known)
    {
        return Ok(known);
    }
    let failed = |source| ServerError::Listen { address, source };
    let port = match address.port() {
        0 => lasting_port().map_err(failed)?,
        port => port,
    };
    let free = SocketAddr::new(address.ip(), port);
    TcpListener::bind(free).map_err(failed)?;
    let written = std::fs::write(&path, free.to_string());
    written.map_err(|source| ServerError::Io { path, source })?;
    Ok(free)
}

fn settle_https(config: &ServerConfig) -> Result<Option<SocketAddr>, ServerError> {
    let path = edge_folder(&config.state).join("https");
    match config.https {
        Https::At(address) => settle_address(&config.state, "https", address).map(Some),
        Https::AsBefore => Ok(kept_address(&path)),
        Https::Off => match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(ServerError::Io { path, source })
            }
            _ => Ok(None),
        },
    }
}

fn kept_address(path: &Path) -> Option<SocketAddr> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn fits(wished: SocketAddr, known: SocketAddr) -> bool {
    wished.ip() == known.ip() && (wished.port() == 0 || wished.port() == known.port())
}

/// The environments the newest project knows, whether anything was deployed there or not.
pub fn known_environments(app: &App) -> Vec<EnvironmentName> {
    let newest = app.projects.iter().max_by_key(|(id, _)| domain::app::number(*id));
    let of_project = newest.iter().flat_map(|(_, p)| p.environments.iter().map(|e| e.name.clone()));
    let mut names: Vec<EnvironmentName> = of_project.collect();
    for name in app.environments.keys() {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}
