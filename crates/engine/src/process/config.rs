//! What a process engine needs to know: its folder, its shim, and whom the user's programs run as.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use crate::EngineError;
use crate::unit::UserIds;

/// How to build a [`super::ProcessEngine`].
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// The folder of one app; everything the engine keeps lies below.
    pub state: PathBuf,
    pub shim: ShimCommand,
    /// Whom everything of the user's runs as; `None` runs it as the engine itself.
    pub run_as: Option<Unprivileged>,
}

/// The program that becomes a shim, for example `launchway shim`.
#[derive(Debug, Clone)]
pub struct ShimCommand {
    pub program: PathBuf,
    /// Before the path of the spec.
    pub args: Vec<OsString>,
}

/// A user that is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprivileged {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Unprivileged {
    /// Nobody, if this process is not root. Else `$LAUNCHWAY_USER`, `launchway` or `nobody`.
    pub fn detect() -> Result<Option<Self>, EngineError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(name) = std::env::var("LAUNCHWAY_USER") {
            return Self::named(&name)?.map(Some).ok_or_else(|| {
                complain(
                    &name,
                    "there is no such user; create it, or set LAUNCHWAY_USER to one that exists",
                )
            });
        }
        for name in ["launchway", "nobody"] {
            if let Some(user) = Self::named(name)? {
                return Ok(Some(user));
            }
        }
        Err(complain(
            "launchway",
            "neither `launchway` nor `nobody` exists; run `useradd -r launchway`",
        ))
    }

    fn named(name: &str) -> Result<Option<Self>, EngineError> {
        let user = User::from_name(name).map_err(|error| complain(name, &error.to_string()))?;
        let Some(user) = user else { return Ok(None) };
        if user.uid.is_root() {
            return Err(complain(name, "this user is root; servers never run as root"));
        }
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        Ok(Some(Self { name: name.to_owned(), uid, gid }))
    }

    pub(crate) fn ids(&self) -> UserIds {
        UserIds { uid: self.uid, gid: self.gid }
    }

    /// The first folder on the way to `path` that this user may not enter.
    pub fn barred_from(&self, path: &Path) -> Option<PathBuf> {
        let ancestors: Vec<&Path> = path.ancestors().collect();
        let barred = |folder: &&Path| barred(folder, self.uid, self.gid);
        ancestors.into_iter().rev().find(barred).map(Path::to_path_buf)
    }
}

/// The folders of `path`, as in `$PATH`, that a user may enter: a tool below `/root` would be found and then
/// refused.
pub fn reachable_path(path: &str, uid: u32, gid: u32) -> String {
    let open = |folder: &&str| {
        let real = Path::new(folder).canonicalize();
        let may_enter = |real: PathBuf| !real.ancestors().any(|part| barred(part, uid, gid));
        folder.starts_with('/') && real.is_ok_and(may_enter)
    };
    path.split(':').filter(open).collect::<Vec<_>>().join(":")
}

fn barred(folder: &Path, uid: u32, gid: u32) -> bool {
    let Ok(meta) = fs::metadata(folder) else { return false };
    let bit = match () {
        () if meta.uid() == uid => 0o100,
        () if meta.gid() == gid => 0o010,
        () => 0o001,
    };
    meta.is_dir() && meta.permissions().mode() & bit == 0
}

fn complain(name: &str, why: &str) -> EngineError {
    EngineError::new(format!("finding the user `{name}` that servers run as"), why)
}

impl ProcessConfig {
    /// A folder that belongs to the user's programs.
    pub(crate) fn own_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
        self.give_away(folder)
    }

    /// Gives a file or folder to the user's programs.
    pub(crate) fn give_away(&self, path: &Path) -> io::Result<()> {
        match &self.run_as {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        }
    }

    /// Refuses a folder that the user's programs could not enter.
    pub(crate) fn check_reach(&self, path: &Path) -> Result<(), String> {
        let Some(user) = &self.run_as else { return Ok(()) };
        let Some(folder) = user.barred_from(path) else { return Ok(()) };
        Err(format!(
            "the user `{}`, whom it runs as, may not enter {}; put it elsewhere or run `chmod o+x` on that folder",
            user.name,
            folder.display()
        ))
    }

    /// The home of the user's programs.
    pub(crate) fn home(&self) -> PathBuf {
        self.state.join("home")
    }

    /// The little that the user's programs see of the engine's own environment.
    pub(crate) fn base_env(&self) -> BTreeMap<String, String> {
        const PASSED: [&str; 20] = [
            "PATH",
            "LANG",
            "LC_ALL",
            "LC_CTYPE",
            "TZ",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
            "ALL_PROXY",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
        ];
        let passed = PASSED.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?)));
        let mut env: BTreeMap<String, String> =
            passed.map(|(name, value)| (name.to_owned(), value)).collect();
        let path =
            env.entry("PATH".into()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".into());
        if let Some(user) = &self.run_as {
            *path = reachable_path(path, user.uid, user.gid);
        }
        env.insert("HOME".into(), self.home().to_string_lossy().into_owned());
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_the_user_may_not_enter_are_left_out_of_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let (closed, free) = (folder.path().join("closed"), folder.path().join("free"));
        fs::create_dir_all(closed.join("bin")).unwrap();
        fs::create_dir(&free).unwrap();
        std::os::unix::fs::symlink(closed.join("bin"), folder.path().join("link")).unwrap();
        open(folder.path(), 0o755);
        open(&closed, 0o700);
        open(&free, 0o755);
        let all = format!("{0}/closed/bin:{0}/link:bin:{0}/free:/bin", folder.path().display());
        assert_eq!(reachable_path(&all, 54321, 54321), format!("{}:/bin", free.display()));
    }
}
