//! Images go to a real registry that wants a login, and come back by their digest.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::docker::build::{
    BuildError, BuildRequest, Context, Credentials, ImageBuilder, Secrets, by_id,
};
use tempfile::TempDir;

/// `mei` with the password `oolong`, as htpasswd has it.
const LOGIN: &str = "mei:$2b$04$2ix6cS6EDPiAs82NYo85/uiV7yjIeBs022j3dTKb.6jQFToB8ccz2\n";

/// A registry on loopback, gone with the test.
struct Registry {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Registry {
    fn start(program: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("htpasswd"), LOGIN).unwrap();
        let config = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: {address} }}\n\
             auth: {{ htpasswd: {{ realm: tea, path: {} }} }}\nlog: {{ level: error }}\n",
            path("data").display(),
            path("htpasswd").display(),
        );
        fs::write(path("config.yml"), config).unwrap();
        let mut command = Command::new(program);
        command.arg("serve").arg(path("config.yml"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, address, folder }
    }

    /// Docker's own configuration, with the login: in the file, or with a helper that is asked.
    fn login(&self) -> Credentials {
        let path = self.folder.path().join("config.json");
        let auth = STANDARD.encode("mei:oolong");
        let config = serde_json::json!({ "auths": { self.address.to_string(): { "auth": auth } } });
        fs::write(&path, config.to_string()).unwrap();
        Credentials::of_file(&path)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The registry's program and an Engine; else a loud line, and a failure where a skip is one.
async fn ready() -> Option<(ImageBuilder, String)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/registry");
    let program = || {
        let output = Command::new(script).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    };
    let ready = match ImageBuilder::connect().await {
        Ok(builder) => program().map(|program| (builder, program)),
        Err(error) => Err(error.to_string()),
    };
    match ready {
        Ok(ready) => Some(ready),
        Err(why) => {
            let set = |name| std::env::var_os(name).is_some();
            assert!(!(set("LAUNCHWAY_REQUIRE_DOCKER") || set("CI")), "{why}");
            println!(
                "SKIPPED: no Docker Engine answers, or there is no registry (dev/setup docker): {why}"
            );
            None
        }
    }
}

#[tokio::test]
async fn an_image_is_pushed_with_the_users_own_login_and_pulled_by_its_digest() {
    let Some((builder, program)) = ready().await else { return };
    let registry = Registry::start(&program);
    let context = tempfile::tempdir().unwrap();
    fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY leaf /\n").unwrap();
    fs::write(context.path().join("leaf"), registry.address.to_string()).unwrap();
    let name = format!("{}/team/tea:one", registry.address);
    let request = BuildRequest {
        context: Context {
            root: context.path().to_owned(),
            dockerfile: "Dockerfile".into(),
            inline: None,
            modified: 1_700_000_000,
        },
        tag: name.clone(),
        target: None,
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
        secrets: Secrets::default(),
        pull: false,
        no_cache: false,
        network: None,
        extra_hosts: Vec::new(),
    };
    let id = builder.build(&request, &mut |_| {}).await.unwrap();

    let stranger = builder.with_credentials(Credentials::default());
    let refused = stranger.push(&name, &mut |_| {}).await.unwrap_err();
    assert!(matches!(&refused, BuildError::Failed { .. } | BuildError::Refused(_)), "{refused}");

    let builder = stranger.with_credentials(registry.login());
    let mut said = String::new();
    let pushed = builder.push(&name, &mut |line| said.push_str(line)).await.unwrap();
    assert!(pushed.starts_with(&format!("{}/team/tea@sha256:", registry.address)), "{pushed}");
    assert!(!said.contains("oolong"), "{said}");

    builder.remove(&name).await.unwrap();
    builder.remove(&pushed).await.unwrap();
    assert!(builder.image(&by_id(&id)).await.unwrap().is_none());
    let pulled = builder.pull(&pushed, &mut |_| {}).await.unwrap();
    assert_eq!(pulled.id, id);
    builder.remove(&by_id(&id)).await.unwrap();
}
