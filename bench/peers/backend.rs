//! The one backend that all proxies stand in front of.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ground::program;
use super::{Failed, Ground, Outcome, Process, failing, free_address, write_filled};

/// Answers `/20k` with 20 KiB and everything else with 1 KiB.
pub struct Backend {
    pub address: SocketAddr,
    pub process: Process,
}

impl Backend {
    pub async fn start(ground: &Ground) -> Outcome<Self> {
        let folder = ground.folder("backend")?;
        for (name, size) in [("1k", 1024), ("20k", 20 * 1024)] {
            let path = folder.join(name);
            fs::write(&path, vec![b'x'; size])
                .map_err(failing(format_args!("writing {}", path.display())))?;
        }
        let address = free_address()?;
        let config = folder.join("backend.conf");
        write_filled(
            &config,
            include_str!("backend.conf"),
            &[
                ("workers", &ground.workers.to_string()),
                ("folder", &folder.display().to_string()),
                ("connections", &ground.connections().to_string()),
                ("http", &address.to_string()),
            ],
        )?;
        let mut command = Command::new(program("nginx")?);
        command.arg("-c").arg(&config).arg("-p").arg(&folder);
        let mut process = Process::start("the backend", command, folder.join("log"), ground)?;
        process.listens(address).await?;
        Ok(Self { address, process })
    }

    /// Requests it has been sent so far, without those for this count.
    pub async fn requests(&self) -> Outcome<u64> {
        let asking = || failing::<std::io::Error>("asking the backend for its count of requests");
        let mut stream = TcpStream::connect(self.address).await.map_err(asking())?;
        let request = b"GET /count HTTP/1.1\r\nhost: backend\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.map_err(asking())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map_err(asking())?;
        // "server accepts handled requests", and below it the three numbers.
        let numbers = answer.split("requests").nth(1).and_then(|rest| rest.trim().lines().next());
        numbers
            .and_then(|line| line.split_whitespace().nth(2)?.parse().ok())
            .ok_or_else(|| Failed(format!("the backend's count is not understood: {answer}")))
    }
}
