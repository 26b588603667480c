//! kamal-proxy, built from its Go module: switched by `deploy`, as Kamal does it.
//!
//! It has nothing to tune but the number of its threads. It writes a line of log for each request and cannot be told
//! not to; the line goes to a file in memory or on disk as any other server's output here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::{Failed, Ground, HOST, Outcome, Process, failing, free_address};

/// A running kamal-proxy.
pub struct KamalPeer {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub process: Process,
    program: PathBuf,
    folder: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl KamalPeer {
    pub async fn start(ground: &Ground, backend: SocketAddr) -> Outcome<Self> {
        let program = ground.kamal.clone().map_err(Failed)?;
        let folder = ground.folder("kamal")?;
        let (http, https) = (free_address()?, free_address()?);
        let mut command = Command::new(&program);
        command
            .args(["run", "--http-port", &http.port().to_string()])
            .args(["--https-port", &https.port().to_string()])
            .env("GOMAXPROCS", ground.workers.to_string())
            .env("HOME", &folder)
            .env("XDG_RUNTIME_DIR", &folder);
        let process = Process::start("kamal-proxy", command, PathBuf::from("/dev/null"), ground)?;
        let (certificate, key) = (ground.certificate.chain.clone(), ground.certificate.key.clone());
        let mut peer = Self { http, https, process, program, folder, certificate, key };
        peer.process.listens(http).await?;
        peer.switch(backend).await?;
        Ok(peer)
    }

    /// Deploys `backend` in the place of what was there; returns when the old one is drained.
    pub async fn switch(&mut self, backend: SocketAddr) -> Outcome<()> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(["deploy", "app", "--target", &backend.to_string(), "--host", HOST])
            .args(["--health-check-path", "/1k", "--tls", "--tls-redirect=false"])
            // What still runs then is broken off. The default is 30 s, for which each switch would wait.
            .args(["--drain-timeout", "3s"])
            .arg("--forward-headers")
            .arg("--tls-certificate-path")
            .arg(&self.certificate)
            .arg("--tls-private-key-path")
            .arg(&self.key)
            .env("HOME", &self.folder)
            .env("XDG_RUNTIME_DIR", &self.folder)
            .kill_on_drop(true);
        let said = command.output().await.map_err(failing("running `kamal-proxy deploy`"))?;
        if said.status.success() {
            return Ok(());
        }
        Err(Failed(format!(
            "kamal-proxy did not deploy: {}",
            String::from_utf8_lossy(&said.stderr)
        )))
    }
}
