//! Logins of registries, from Docker's own configuration: `config.json`, its helpers and its store.
//!
//! Read when they are asked for, so that a `docker login` counts at once; never kept, never shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

const HELPER_LIMIT: Duration = Duration::from_secs(15);
/// The name under which Docker keeps the login of Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// Where logins are looked for.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    config: Option<PathBuf>,
}

/// A login. Its secret appears in no output.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub secret: String,
    /// The secret is an identity token instead of a password.
    pub token: bool,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct Auth {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl Credentials {
    /// Those of the user that we are: `$DOCKER_CONFIG`, or `~/.docker`.
    pub fn from_env() -> Self {
        let folder = std::env::var_os("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
        Self { config: folder.map(|folder| folder.join("config.json")) }
    }

    /// Those of this `config.json`.
    pub fn of_file(path: &Path) -> Self {
        Self { config: Some(path.to_owned()) }
    }

    /// The login for `registry`, a host with its port if it has one; `None` if there is none.
    pub async fn of(&self, registry: &str) -> Option<Login> {
        let text = std::fs::read(self.config.as_ref()?).ok()?;
        let config: Config = serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "Docker's config.json cannot be read"))
            .ok()?;
        let names = names_of(registry);
        let helper = names.iter().find_map(|name| config.cred_helpers.get(name));
        for name in &names {
            if let Some(helper) = helper.or(config.creds_store.as_ref())
                && let Some(login) = ask(helper, name).await
            {
                return Some(login);
            }
            if let Some(login) = config.auths.get(name).and_then(Auth::login) {
                return Some(login);
            }
        }
        None
    }
}

impl Auth {
    fn login(&self) -> Option<Login> {
        let decoded = STANDARD.decode(self.auth.trim()).unwrap_or_default();
        let decoded = String::from_utf8(decoded).unwrap_or_default();
        let (user, password) = decoded.split_once(':').unwrap_or((&self.username, &self.password));
        let token = !self.identitytoken.is_empty();
        let secret = if token { &self.identitytoken } else { password.trim_end_matches('\0') };
        let login = Login { user: user.to_owned(), secret: secret.to_owned(), token };
        (!login.secret.is_empty()).then_some(login)
    }
}

/// Docker Hub has many names, and logins are kept with or without a scheme.
fn names_of(registry: &str) -> Vec<String> {
    if matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        return vec![HUB.into(), "docker.io".into(), "index.docker.io".into()];
    }
    vec![
        registry.to_owned(),
        format!("https://{registry}"),
        format!("http://{registry}"),
        format!("https://{registry}/v1/"),
        format!("https://{registry}/v2/"),
    ]
}

/// Asks `docker-credential-HELPER` (<https://github.com/docker/docker-credential-helpers>).
async fn ask(helper: &str, name: &str) -> Option<Login> {
    if helper.contains('/') {
        return None;
    }
    let asked = async {
        let mut child = Command::new(format!("docker-credential-{helper}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(name.as_bytes()).await.ok()?;
        child.wait_with_output().await.ok()
    };
    let output = tokio::time::timeout(HELPER_LIMIT, asked).await.ok().flatten()?;
    if !output.status.success() {
        return None;
    }
    let helped: Helped = serde_json::from_slice(&output.stdout).ok()?;
    let token = helped.username == "<token>";
    Some(Login { user: helped.username, secret: helped.secret, token })
}

/// The registry that an image's name leads to: what is before the first `/`, if it can be a host.
pub fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, Credentials) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let credentials = Credentials::of_file(&path);
        (folder, credentials)
    }

    #[tokio::test]
    async fn a_login_is_found_under_every_name_of_its_registry() {
        let auth = STANDARD.encode("mei:oolong");
        let text = format!(
            r#"{{"auths": {{"https://r.example/v1/": {{"auth": "{auth}"}}, "{HUB}": {{"auth": "{auth}"}},
                "t.example": {{"auth": "{auth}", "identitytoken": "tok"}}}}}}"#
        );
        let (_folder, credentials) = config(&text);
        for registry in ["r.example", "docker.io", "registry-1.docker.io"] {
            let login = credentials.of(registry).await.unwrap();
            assert_eq!(
                (login.user.as_str(), login.secret.as_str()),
                ("mei", "oolong"),
                "{registry}"
            );
        }
        let login = credentials.of("t.example").await.unwrap();
        assert!(login.token && login.secret == "tok");
        assert_eq!(credentials.of("other.example").await, None);
    }

    #[tokio::test]
    async fn a_broken_or_missing_configuration_has_no_login() {
        let (_folder, broken) = config("{");
        assert_eq!(broken.of("docker.io").await, None);
        assert_eq!(Credentials::of_file(Path::new("/nonexistent")).of("docker.io").await, None);
        let (_folder, helper) = config(r#"{"credsStore": "launchway-has-no-such-helper"}"#);
        assert_eq!(helper.of("docker.io").await, None);
    }

    #[test]
    fn a_login_never_shows_its_secret() {
        let login = Login { user: "mei".into(), secret: "oolong".into(), token: false };
        assert!(!format!("{login:?}").contains("oolong"));
    }

    #[test]
    fn the_registry_is_the_host_before_the_first_slash() {
        assert_eq!(registry_of("redis:7"), "docker.io");
        assert_eq!(registry_of("library/redis"), "docker.io");
        assert_eq!(registry_of("localhost/x"), "localhost");
        assert_eq!(registry_of("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000");
    }
}
