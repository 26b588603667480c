//! Pebble, a real CA that speaks ACME, as the tests drive it.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::client;

/// A CA that knows every name as 127.0.0.1, and looks at the ports of the edge. Dropping it ends it.
pub struct Pebble {
    programs: PathBuf,
    folder: PathBuf,
    config: serde_json::Value,
    dns: u16,
    management: SocketAddr,
    pub directory: String,
    ca: Option<Process>,
    names: Process,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where Pebble is; `None`, loudly, where it cannot be built outside CI.
pub fn programs() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/pebble");
    let built = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    if built.status.success() {
        return Some(String::from_utf8(built.stdout).unwrap().trim().into());
    }
    assert!(std::env::var_os("CI").is_none(), "Pebble could not be built");
    // Not by a macro: what those print in a test that passes is not shown.
    let said = "NOT TESTED: Pebble could not be built, so nobody knows whether ACME works\n";
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    None
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Pebble {
    /// Starts it with its files in `folder`; its certificates hold for `life`.
    pub fn start(
        programs: PathBuf,
        folder: &Path,
        http: SocketAddr,
        https: SocketAddr,
        life: Duration,
    ) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(folder.join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
        let (listen, management, dns) = (free_port(), free_port(), free_port());
        let config = serde_json::json!({
            "listenAddress": format!("127.0.0.1:{listen}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": folder.join("root.pem"),
            "privateKey": folder.join("key.pem"),
            "httpPort": http.port(),
            "tlsPort": https.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            // It counts the last second in.
            "profiles": { "default": { "validityPeriod": life.as_secs() + 1 } },
        });
        let names = resolver(&programs, dns);
        let mut pebble = Self {
            programs,
            folder: folder.into(),
            config,
            dns,
            management: SocketAddr::from(([127, 0, 0, 1], management)),
            directory: format!("https://127.0.0.1:{listen}/dir"),
            ca: None,
            names,
        };
        pebble.begin(&[]);
        pebble
    }

    /// Ends the CA, as a machine that lost its power.
    pub fn stop(&mut self) {
        self.ca = None;
    }

    /// Starts it at the same address; it refuses the names in `refused`. What it knew before it has forgotten.
    pub fn begin(&mut self, refused: &[&str]) {
        self.stop();
        self.config["domainBlocklist"] = refused.into();
        let config = serde_json::json!({ "pebble": self.config });
        std::fs::write(self.folder.join("pebble.json"), config.to_string()).unwrap();
        let log = OpenOptions::new().append(true).create(true).open(self.log()).unwrap();
        let mut command = Command::new(self.programs.join("pebble"));
        command.arg("-config").arg(self.folder.join("pebble.json"));
        command.args(["-dnsserver", &format!("127.0.0.1:{}", self.dns)]);
        // It neither dawdles nor takes a proof twice: each order has all its steps.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        self.ca = Some(started(&mut command, log.into()));
    }

    /// While they cannot be resolved, the CA looks for the names in vain for some seconds.
    pub fn resolve_names(&self, yes: bool) {
        let signal = if yes { "-CONT" } else { "-STOP" };
        let pid = self.names.0.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Orders it took since the first start.
    pub fn orders(&self) -> usize {
        self.logged("Added order ")
    }

    /// Accounts it made since the first start.
    pub fn accounts(&self) -> usize {
        self.logged(" accounts in memory")
    }

    /// Waits until it looks for a challenge.
    pub async fn looks(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.logged("Pulled a task") == 0 {
            assert!(Instant::now() < deadline, "the CA never looked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The root of its certificates.
    pub async fn root(&self) -> CertificateDer<'static> {
        let own = std::fs::read(self.folder.join("root.pem")).unwrap();
        let own = CertificateDer::from_pem_slice(&own).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match client::get(self.management, "127.0.0.1", "/roots/0", own.clone()).await {
                Ok(said) => return CertificateDer::from_pem_slice(said.body.as_bytes()).unwrap(),
                // It has begun a moment ago.
                Err(error) => assert!(Instant::now() < deadline, "no root of the CA: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("pebble.log")
    }

    fn logged(&self, what: &str) -> usize {
        std::fs::read_to_string(self.log()).unwrap().matches(what).count()
    }
}

fn resolver(programs: &Path, dns: u16) -> Process {
    let mut command = Command::new(programs.join("pebble-challtestsrv"));
    command.args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
    command.args(["-management", &format!("127.0.0.1:{}", free_port())]);
    command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
    command.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
    started(&mut command, Stdio::null())
}

fn started(command: &mut Command, log: Stdio) -> Process {
    Process(command.stdout(log).stderr(Stdio::null()).spawn().unwrap())
}
