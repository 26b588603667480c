//! Signs of life of a server that says nothing. One that is stopped, or hangs, takes connections all the same: whoever
//! waits for it would wait for ever.

use std::io::ErrorKind;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// Without a word; then it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(5);
/// For the answer to that.
const SIGN: Duration = Duration::from_secs(10);
const QUESTION: &[u8] = b"GET /v1/alive HTTP/1.1\r\nhost: launchway\r\nconnection: close\r\n\r\n";

/// A server that takes connections and says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silent {
    /// Its process, where the kernel says so.
    pub pid: Option<u32>,
    /// It is stopped, as by SIGSTOP or Ctrl-Z.
    pub stopped: bool,
}

/// What the server at `socket` says in the end; it may take its time as long as the server gives signs of life.
pub async fn heard<T>(socket: &Path, answer: impl Future<Output = T>) -> Result<T, Silent> {
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            () = sleep(SILENCE) => {}
        }
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            signed = sign(socket) => signed?,
        }
    }
}

/// Waits for a sign. That nobody is there any more is one too: the answer itself ends then.
async fn sign(socket: &Path) -> Result<(), Silent> {
    let mut stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // Nobody takes its connections any more.
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(Silent::of(None)),
        Err(_) => return Ok(()),
    };
    let pid = stream.peer_cred().ok().and_then(|peer| u32::try_from(peer.pid()?).ok());
    let asking = async {
        stream.write_all(QUESTION).await?;
        stream.read_u8().await
    };
    match timeout(SIGN, asking).await {
        Ok(_answered_or_gone) => Ok(()),
        Err(_) => Err(Silent::of(pid.filter(|pid| *pid > 0))),
    }
}

impl Silent {
    fn of(pid: Option<u32>) -> Self {
        Self { pid, stopped: pid.is_some_and(is_stopped) }
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}
