//! HAProxy of Debian: switched through its runtime API, without a reload.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::ground::program;
use super::{Failed, Ground, Outcome, Process, failing, free_address, processes_of, write_filled};

const ANSWER: Duration = Duration::from_secs(5);

/// A running HAProxy: a master and one worker with a thread per core.
pub struct HaproxyPeer {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub process: Process,
    folder: PathBuf,
    values: Vec<(&'static str, String)>,
}

impl HaproxyPeer {
    /// Starts it, with `routes` as further lines of the frontend.
    pub async fn start(ground: &Ground, backend: SocketAddr, routes: &str) -> Outcome<Self> {
        let folder = ground.folder("haproxy")?;
        let (http, https) = (free_address()?, free_address()?);
        let values = vec![
            ("workers", ground.workers.to_string()),
            ("folder", folder.display().to_string()),
            ("connections", ground.connections().to_string()),
            ("both", ground.certificate.both.display().to_string()),
            ("https", https.to_string()),
            ("http", http.to_string()),
            ("routes", routes.to_owned()),
        ];
        write_config(&folder, &values, backend)?;
        let mut command = Command::new(program("haproxy")?);
        // -W: a master, so that it can be reloaded; -db: in the foreground.
        command.arg("-W").arg("-db").arg("-f").arg(folder.join("haproxy.cfg"));
        let master = folder.join("master.sock");
        command.arg("-S").arg(&master);
        let mut process = Process::start("haproxy", command, folder.join("log"), ground)?;
        process.listens(http).await?;
        // A master that does not yet listen to commands forgets a reload.
        let ready =
            async || ask(&master, "show proc").await.is_ok_and(|said| said.contains("worker"));
        process.until("haproxy's master to take commands", ready).await?;
        Ok(Self { http, https, process, folder, values })
    }

    /// Gives the server another address.
    pub async fn switch(&mut self, backend: SocketAddr) -> Outcome<()> {
        let (ip, port) = (backend.ip(), backend.port());
        let said = self.command(&format!("set server app/app addr {ip} port {port}")).await?;
        let changed = said.contains("changed from") || said.contains("no need to change");
        if changed { Ok(()) } else { Err(Failed(format!("haproxy did not switch: {said}"))) }
    }

    /// Writes the new address into the configuration and reloads: a new worker takes over the sockets.
    pub async fn switch_by_reload(&mut self, backend: SocketAddr) -> Outcome<()> {
        write_config(&self.folder, &self.values, backend)?;
        let master = self.process.pid();
        let before = processes_of(master);
        // The answer is cut off: the master begins anew.
        let _ = ask(&self.folder.join("master.sock"), "reload").await;
        let fresh = async || processes_of(master).iter().any(|pid| !before.contains(pid));
        self.process.until("haproxy to reload", fresh).await
    }

    /// A command of the runtime API, and its answer.
    pub async fn command(&self, line: &str) -> Outcome<String> {
        ask(&self.folder.join("haproxy.sock"), line).await
    }
}

async fn ask(socket: &Path, line: &str) -> Outcome<String> {
    let asking = || failing::<std::io::Error>("speaking to haproxy");
    let mut stream = UnixStream::connect(socket).await.map_err(asking())?;
    stream.write_all(format!("{line}\n").as_bytes()).await.map_err(asking())?;
    // The master waits for further commands otherwise.
    stream.shutdown().await.map_err(asking())?;
    let mut answer = String::new();
    let reading = tokio::time::timeout(ANSWER, stream.read_to_string(&mut answer)).await;
    reading.map_err(failing("waiting for haproxy's answer"))?.map_err(asking())?;
    Ok(answer)
}

fn write_config(
    folder: &Path,
    values: &[(&'static str, String)],
    backend: SocketAddr,
) -> Outcome<()> {
    let backend = backend.to_string();
    let mut all: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, &**value)).collect();
    all.push(("backend", &backend));
    write_filled(&folder.join("haproxy.cfg"), include_str!("haproxy.cfg"), &all)
}
