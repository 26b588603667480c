//! A server that belongs to the benchmark: it runs as another user, and ends with the benchmark whatever happens.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use super::{Failed, Ground, Outcome, failing, processes_of};

/// How long a server may take to listen: 100,000 locations take nginx a while.
const START: Duration = Duration::from_secs(90);
/// How long it may take to end before it is killed.
const STOP: Duration = Duration::from_secs(5);

/// A running server. Dropping it ends it and its children.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` as the ground's user, its output in `log`.
    ///
    /// It gets SIGTERM when the *thread* that calls this ends: call it on one that lives as long as the benchmark.
    pub fn start(
        name: &'static str,
        mut command: Command,
        log: PathBuf,
        ground: &Ground,
    ) -> Outcome<Self> {
        let output = File::options().create(true).append(true).open(&log);
        let output = output.map_err(failing(format_args!("opening {}", log.display())))?;
        let errors = output.try_clone().map_err(failing("sharing the log"))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        if let Some(user) = &ground.user {
            command.gid(user.gid).uid(user.uid);
        }
        end_with_us(&mut command);
        let child = command.spawn().map_err(failing(format_args!("starting {name}")))?;
        Ok(Self { name, child, log })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until it takes connections at `address`.
    pub async fn listens(&mut self, address: SocketAddr) -> Outcome<()> {
        let what = format!("{} to listen on {address}", self.name);
        self.until(&what, async || TcpStream::connect(address).is_ok()).await
    }

    /// Waits until `done`; fails if the process ends first, or takes too long.
    pub async fn until(&mut self, what: &str, mut done: impl AsyncFnMut() -> bool) -> Outcome<()> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(status) = self.ended()? {
                return Err(
                    self.complain(&format!("waiting for {what}, which ended with {status}"))
                );
            }
            if done().await {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.complain(&format!("waiting {START:?} for {what}")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        kill(self.pid(), signal).map_err(failing(format_args!("sending {signal} to {}", self.name)))
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        self.child.try_wait().map_err(failing(format_args!("looking after {}", self.name)))
    }

    /// An error with the end of its log.
    pub fn complain(&self, what: &str) -> Failed {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n");
        Failed(format!("{what}\n{tail}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let all = processes_of(self.pid());
        // Who has ended already cannot be sent anything, which is what is wanted.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + STOP;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            for pid in all {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// Runs after the change of user, which would clear the death signal again.
#[allow(unsafe_code)]
fn end_with_us(command: &mut Command) {
    let bench = nix::unistd::getpid();
    let prepare = move || {
        // Not SIGKILL: nginx's workers outlive a master that was killed.
        prctl::set_pdeathsig(Signal::SIGTERM)?;
        if getppid() == bench {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(nix::libc::ESRCH))
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, so it is safe between fork and exec.
    unsafe { command.pre_exec(prepare) };
}
