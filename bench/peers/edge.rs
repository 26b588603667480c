//! Launchway's edge: the release binary, with a table published to its control socket.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use domain::route::{EnvironmentRoutes, Route, SlotRoutes, Table, close_spread};
use domain::slot::Endpoint;
use domain::{AppName, Color, EnvironmentName, Epoch, ReleaseId, ServiceName};
use edge::{Certificate, Certificates, Client, PrivateKey};
use nix::sys::signal::Signal;

use super::{Ground, HOST, Outcome, Process, failing, free_address};

/// A running edge with one environment. Each switch makes the other slot live.
pub struct EdgePeer {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub process: Process,
    pub client: Client,
    /// How long WebSockets and streams may stay on a slot that lost the traffic, and over how much time they are closed.
    pub drain: Duration,
    pub spread: Duration,
    folder: PathBuf,
    epoch: u64,
    live: Color,
    slots: BTreeMap<Color, SlotRoutes>,
}

impl EdgePeer {
    pub async fn start(ground: &Ground, backend: SocketAddr) -> Outcome<Self> {
        let folder = ground.folder("edge")?;
        let (http, https) = (free_address()?, free_address()?);
        let mut process = spawn(ground, http, https, &folder, &[])?;
        let client = Client::new(folder.join("state/control.sock"));
        // It listens for clients a moment before its control socket has its name.
        let answers = async || client.status().await.is_ok();
        process.until("its control socket to answer", answers).await?;
        put_certificate(ground, &client).await?;
        let mut peer = Self {
            http,
            https,
            process,
            client,
            drain: Duration::from_secs(30),
            spread: close_spread(),
            folder,
            epoch: 0,
            live: Color::Blue,
            slots: BTreeMap::new(),
        };
        peer.publish(Color::Blue, one_route(backend)).await?;
        Ok(peer)
    }

    /// Routes the slot that is idle to `backend` and makes it live; the other one stays and drains.
    pub async fn switch(&mut self, backend: SocketAddr) -> Outcome<()> {
        self.publish(self.live.other(), one_route(backend)).await
    }

    /// Starts another process that takes the sockets over from this one; returns the old one, which drains.
    pub async fn upgrade(&mut self, ground: &Ground) -> Outcome<Process> {
        let process = spawn(ground, self.http, self.https, &self.folder, &["--take-over"])?;
        let old = std::mem::replace(&mut self.process, process);
        let (client, pid) = (self.client.clone(), self.process.pid().as_raw().unsigned_abs());
        let taken = async || client.status().await.is_ok_and(|status| status.pid == pid);
        self.process.until("the new edge to take over", taken).await?;
        Ok(old)
    }

    /// Kills it without a warning and starts it again, alone with what is on its disk.
    pub async fn kill_and_restart(&mut self, ground: &Ground) -> Outcome<()> {
        self.process.signal(Signal::SIGKILL)?;
        while self.process.ended()?.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.process = spawn(ground, self.http, self.https, &self.folder, &[])?;
        Ok(())
    }

    /// Makes `slot` live with these routes. Returns when that is in force on all workers and on disk.
    pub async fn publish(&mut self, slot: Color, routes: Vec<Route>) -> Outcome<()> {
        self.epoch += 1;
        self.live = slot;
        let release = ReleaseId::nth(self.epoch);
        self.slots.insert(slot, SlotRoutes { release, routes });
        let published = self.client.publish(&self.table()?).await;
        published.map(drop).map_err(failing("publishing a table to the edge"))
    }

    fn table(&self) -> Outcome<Table> {
        let named = failing::<domain::id::NameError>;
        let environment = EnvironmentRoutes {
            app: AppName::new("bench").map_err(named("naming the app"))?,
            host: HOST.into(),
            names: Vec::new(),
            preview_host: "preview.localhost".into(),
            live: self.live,
            slots: self.slots.clone(),
            drain_deadline: self.drain,
            close_spread: self.spread,
            https: false,
        };
        let name = EnvironmentName::new("bench").map_err(named("naming the environment"))?;
        Ok(Table { epoch: Epoch(self.epoch), environments: BTreeMap::from([(name, environment)]) })
    }
}

fn spawn(
    ground: &Ground,
    http: SocketAddr,
    https: SocketAddr,
    folder: &Path,
    further: &[&str],
) -> Outcome<Process> {
    let mut command = Command::new(&ground.launchway);
    command.arg("edge").arg("--listen").arg(http.to_string()).arg("--folder");
    command.arg(folder.join("state")).arg("--https").arg(https.to_string()).args(further);
    Process::start("launchway edge", command, folder.join("log"), ground)
}

async fn put_certificate(ground: &Ground, client: &Client) -> Outcome<()> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(failing(format_args!("reading {}", path.display())))
    };
    let chain = read(&ground.certificate.chain)?;
    let key = PrivateKey::new(read(&ground.certificate.key)?);
    let certificates = Certificates {
        certificates: vec![Certificate { names: Vec::new(), chain, key }],
        ..Certificates::default()
    };
    client
        .put_certificates(&certificates)
        .await
        .map(drop)
        .map_err(failing("giving the edge its certificate"))
}

/// Everything to `backend`.
pub fn one_route(backend: SocketAddr) -> Vec<Route> {
    vec![route("/", backend)]
}

/// Everything below `prefix` to `backend`.
pub fn route(prefix: &str, backend: SocketAddr) -> Route {
    Route {
        prefix: prefix.into(),
        service: ServiceName::new("app").expect("a word is a name"),
        endpoints: vec![Endpoint::Http(backend)],
        health: Some("/1k".into()),
        max_body: None,
    }
}
