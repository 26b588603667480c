//! A Docker Engine of the test's own, which may be stopped, killed, and filled up: the machine's is everybody's.
//!
//! It leaves the machine's network filters alone, so published ports and names of containers work, masquerading does not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;

use super::docker::PYTHON;
use super::{PATIENCE, docker, kill};

pub struct Daemon {
    folder: tempfile::TempDir,
    process: Option<Child>,
}

impl Daemon {
    /// With the image of the tests in it; `small`: with so many MiB of disk. `None`, said loudly, where that cannot be.
    pub async fn start(small: Option<u32>) -> Option<Self> {
        let main = docker::docker().await?;
        let missing = missing();
        if let Some(why) = missing {
            let required = std::env::var("CI").is_ok_and(|value| value == "true")
                || std::env::var("LAUNCHWAY_REQUIRE_DOCKER").is_ok_and(|value| value == "1");
            assert!(!required, "a Docker Engine of the test's own cannot be started: {why}");
            eprintln!("SKIPPED: a Docker Engine of the test's own cannot be started: {why}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("lwd-").tempdir_in("/tmp").unwrap();
        let mut daemon = Self { folder, process: None };
        fs::create_dir(daemon.data()).unwrap();
        // With `--bridge none` a dockerd takes docker0 away from the machine's own.
        let bridge = daemon.bridge();
        run("ip", &["link", "add", &bridge, "type", "bridge"]);
        let address = format!("10.213.{}.1/24", std::process::id() % 256);
        run("ip", &["address", "add", &address, "dev", &bridge]);
        if let Some(mib) = small {
            let size = format!("size={mib}m");
            let data = daemon.data();
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &data.to_string_lossy()]);
        }
        daemon.up().await;
        daemon.take_image(&main).await;
        Some(daemon)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A network of its own, named like its folder.
    fn bridge(&self) -> String {
        self.folder
            .path()
            .file_name()
            .unwrap()
            .to_string_lossy()
            .to_lowercase()
            .replace(['-', '.'], "")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub fn client(&self) -> Docker {
        let socket = self.socket().to_string_lossy().into_owned();
        Docker::connect_with_unix(&socket, 120, API_DEFAULT_VERSION).unwrap()
    }

    /// Starts it, and waits until it answers.
    pub async fn up(&mut self) {
        let at = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        let log = File::options().append(true).create(true).open(at("log")).unwrap();
        // A systemd machine's containerd is shared between Engines: a namespace of its own.
        let name = self.folder.path().file_name().unwrap().to_string_lossy().into_owned();
        fs::write(at("daemon.json"), "{}").unwrap();
        let child = Command::new(dockerd().unwrap())
            .args(["--config-file", &at("daemon.json"), "--data-root", &at("data")])
            .args(["--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("docker.sock"))])
            .args(["--live-restore", "--bridge", &self.bridge()])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false"])
            .args(["--containerd-namespace", &name])
            .args(["--containerd-plugins-namespace", &format!("{name}-plugins")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.process = Some(child.unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.socket().exists() && self.client().ping().await.is_ok() {
                return;
            }
            let log = fs::read_to_string(at("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "the test's Engine does not answer:\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it as a restart of the service does (`TERM`), or kills it (`KILL`).
    pub fn down(&mut self, signal: &str) {
        let Some(mut process) = self.process.take() else { return };
        kill(process.id(), signal);
        let deadline = Instant::now() + PATIENCE;
        while process.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                kill(process.id(), "KILL");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Its containerd died with it; where nobody has reaped that yet, the next one would take it for running.
        let _ = fs::remove_file(self.folder.path().join("exec/containerd/containerd.pid"));
    }

    async fn take_image(&self, from: &Docker) {
        let client = self.client();
        let image = from.export_image(PYTHON).map(|piece| piece.unwrap());
        let options = bollard::query_parameters::ImportImageOptionsBuilder::new().build();
        let taken = client.import_image(options, bollard::body_stream(image), None);
        let mut taken = Box::pin(taken);
        while let Some(step) = taken.next().await {
            step.unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.down("TERM");
        // With live-restore containers and their supervisors outlive it, and so does what a killed one started.
        let folder = self.folder.path().to_string_lossy().into_owned();
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != std::process::id() && String::from_utf8_lossy(&line).contains(&folder)
        };
        for _ in 0..3 {
            for pid in super::pids().filter(ours) {
                kill(pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        unmount_below(self.folder.path());
        let _ = Command::new("ip")
            .args(["link", "delete", &self.bridge()])
            .stderr(Stdio::null())
            .status();
    }
}

/// File systems of containers and namespaces that were left.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<&str> = below.filter(|path| Path::new(path).starts_with(folder)).collect();
    below.sort_by_key(|path| std::cmp::Reverse(path.len()));
    for path in below {
        let _ = Command::new("umount").args(["-l", path]).stderr(Stdio::null()).status();
    }
}

/// Why there can be no Engine of the test's own.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("that takes root");
    }
    if dockerd().is_none() {
        return Some("dockerd is not installed (dev/setup docker)");
    }
    None
}

fn dockerd() -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    path.split(':').map(|folder| Path::new(folder).join("dockerd")).find(|path| path.is_file())
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}: {status}");
}
