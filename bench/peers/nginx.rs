//! nginx of Debian: switched by rewriting the upstream and a reload.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::ground::program;
use super::{Ground, Outcome, Process, failing, free_address, processes_of, write_filled};

/// A running nginx.
pub struct NginxPeer {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub process: Process,
    folder: PathBuf,
    workers: usize,
}

impl NginxPeer {
    /// Starts it, with `routes` as further locations.
    pub async fn start(ground: &Ground, backend: SocketAddr, routes: &str) -> Outcome<Self> {
        let folder = ground.folder("nginx")?;
        let (http, https) = (free_address()?, free_address()?);
        let config = folder.join("nginx.conf");
        write_filled(
            &config,
            include_str!("nginx.conf"),
            &[
                ("workers", &ground.workers.to_string()),
                ("folder", &folder.display().to_string()),
                ("connections", &ground.connections().to_string()),
                ("certificate", &ground.certificate.chain.display().to_string()),
                ("key", &ground.certificate.key.display().to_string()),
                ("https", &https.to_string()),
                ("http", &http.to_string()),
            ],
        )?;
        write(&folder.join("upstream.conf"), &upstream(backend))?;
        write(&folder.join("routes.conf"), routes)?;
        let mut command = Command::new(program("nginx")?);
        command.arg("-c").arg(&config).arg("-p").arg(&folder);
        let mut process = Process::start("nginx", command, folder.join("log"), ground)?;
        process.listens(http).await?;
        let mut peer = Self { http, https, process, folder, workers: ground.workers };
        peer.forked(&[peer.process.pid()]).await?;
        Ok(peer)
    }

    /// Rewrites the upstream and reloads.
    pub async fn switch(&mut self, backend: SocketAddr) -> Outcome<()> {
        write(&self.folder.join("upstream.conf"), &upstream(backend))?;
        self.reload().await
    }

    /// Writes other locations and reloads.
    pub async fn publish(&mut self, routes: &str) -> Outcome<()> {
        write(&self.folder.join("routes.conf"), routes)?;
        self.reload().await
    }

    /// Returns when workers with the new configuration run; the old ones may still be answering.
    async fn reload(&mut self) -> Outcome<()> {
        let master = self.process.pid();
        let before = processes_of(master);
        self.process.signal(Signal::SIGHUP)?;
        self.forked(&before).await
    }

    /// Waits for all workers that are not among `before`: the sockets listen before there are any.
    async fn forked(&mut self, before: &[Pid]) -> Outcome<()> {
        let (master, workers) = (self.process.pid(), self.workers);
        let fresh = async || {
            processes_of(master).iter().filter(|pid| !before.contains(pid)).count() >= workers
        };
        self.process.until("nginx to start its workers", fresh).await
    }
}

fn upstream(backend: SocketAddr) -> String {
    format!("server {backend};\n")
}

fn write(path: &std::path::Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(failing(format_args!("writing {}", path.display())))
}
