//! What all proxies of one run stand on: a folder, a user, a certificate, programs and limits.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use engine::Unprivileged;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;

use super::{Certificate, Outcome, failing};

/// How many open files are asked for: far more than 20,000 idle connections.
const FILES: u64 = 65_536;

/// The common ground of one run. Dropping it removes its folder.
pub struct Ground {
    folder: TempDir,
    /// Whom the proxies run as, if this process is root.
    pub user: Option<Unprivileged>,
    pub certificate: Certificate,
    /// Worker processes or threads of each proxy, and of the backend: the cores of the machine.
    pub workers: usize,
    /// Open files that each process may have.
    pub files: u64,
    /// The release binary of Launchway.
    pub launchway: PathBuf,
    /// kamal-proxy's binary, or why there is none.
    pub kamal: Result<PathBuf, String>,
    started: AtomicU32,
}

impl Ground {
    /// Prepares the folder and the certificate and raises the limit of open files.
    pub fn new(launchway: PathBuf, kamal: Result<PathBuf, String>) -> Outcome<Self> {
        let user = Unprivileged::detect().map_err(failing("choosing a user for the proxies"))?;
        let folder = tempfile::Builder::new().prefix("launchway-bench-").tempdir();
        let folder = folder.map_err(failing("making a temporary folder"))?;
        own(folder.path(), user.as_ref())?;
        let certificate = Certificate::make(folder.path(), user.as_ref())?;
        // They may lie in a home that the user of the proxies cannot enter.
        let launchway = copied(&launchway, folder.path())?;
        let kamal = match kamal {
            Ok(program) => Ok(copied(&program, folder.path())?),
            Err(why) => Err(why),
        };
        Ok(Self {
            folder,
            user,
            certificate,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            files: raise_files()?,
            launchway,
            kamal,
            started: AtomicU32::new(0),
        })
    }

    /// A new folder for one process, owned by the user it will run as.
    pub fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let nth = self.started.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{name}-{nth}"));
        std::fs::create_dir(&path).map_err(failing(format_args!("making {}", path.display())))?;
        own(&path, self.user.as_ref())?;
        Ok(path)
    }

    /// Client connections that a proxy can have, one file each. Those that are many are idle, and need none upstream.
    pub fn connections(&self) -> u64 {
        self.files.saturating_sub(500).min(30_000)
    }
}

/// A free address on loopback. Somebody else may take it before it is used; then starting fails and says so.
pub fn free_address() -> Outcome<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_err(failing("looking for a free port on 127.0.0.1"))
}

fn copied(program: &Path, folder: &Path) -> Outcome<PathBuf> {
    let name = program.file_name().unwrap_or_default();
    let copy = folder.join(name);
    std::fs::copy(program, &copy)
        .map_err(failing(format_args!("copying {}", program.display())))?;
    Ok(copy)
}

/// Looks a program up in PATH and where servers are installed.
pub(super) fn program(name: &str) -> Outcome<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(servers)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| super::Failed(format!("{name} is not installed; run `dev/setup --bench`")))
}

pub(super) fn own(path: &Path, user: Option<&Unprivileged>) -> Outcome<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid)).map_err(failing(format_args!(
        "giving {} to {}",
        path.display(),
        user.name
    )))
}

/// Raises the limit as far as the machine lets us; returns what it is.
fn raise_files() -> Outcome<u64> {
    let failed = |error: nix::Error| failing("raising the limit of open files")(error);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    let most = hard.max(FILES);
    // Only root may go above the hard limit.
    if setrlimit(Resource::RLIMIT_NOFILE, most, most).is_err() {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed)?;
        return Ok(hard);
    }
    Ok(most)
}
