//! Redis from the machine's own `redis-server`: local, append-only, so that sessions survive a restart.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ProcessEngine;
use super::backing::{Server, folders_with};

impl ProcessEngine {
    pub(super) fn prepare_redis(&self, data: &Path) -> Result<Server, String> {
        self.config.own_folder(data, 0o700).map_err(|error| error.to_string())?;
        let found = folders_with(&["redis-server"], Vec::new());
        let program = found.first().ok_or(
            "`redis-server` is not installed; run `dev/setup`, or `apt-get install redis-server`",
        )?;
        let folder = data.to_string_lossy().into_owned();
        let program = program.join("redis-server").to_string_lossy().into_owned();
        let mut command: Vec<String> =
            ["/bin/sh", "-c", r#"exec "$0" --port "$PORT" "$@""#].map(str::to_owned).into();
        command.push(program);
        command.extend(["--bind", "127.0.0.1", "--dir", &folder].map(str::to_owned));
        command.extend(["--appendonly", "yes", "--appendfsync", "everysec"].map(str::to_owned));
        command.extend(["--save", "", "--daemonize", "no"].map(str::to_owned));
        Ok(Server { command, folder: data.to_owned(), stop_signal: Signal::SIGTERM as i32 })
    }
}

/// `PING`; a server that wants a password is there too.
pub(crate) async fn ping(address: SocketAddr) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    stream.write_all(b"PING\r\n").await.map_err(text)?;
    let mut answer = [0; 128];
    let length = stream.read(&mut answer).await.map_err(text)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") {
        return Ok(());
    }
    Err(format!("it answers {}", answer.trim()))
}
