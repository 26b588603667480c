//! HTTPS with certificates from files: served, replaced under way, kept while the files are broken, and told of.

mod support;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Harness, signal, text};

const NAME: &str = "staging.tiny.localhost";

/// A project whose staging has its certificate from files.
struct Scene {
    harness: Harness,
    chain: PathBuf,
    key: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let harness = Harness::new();
        let folder = harness.state.parent().expect("a folder");
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        let plain = harness.project.launchway_yaml("{ from: [USER] }");
        let tls = format!(
            "drain: 1s, tls: {{ certificate: {}, key: {} }} }}\n  production",
            chain.display(),
            key.display()
        );
        harness
            .project
            .write("launchway.yaml", &plain.replacen("drain: 1s }\n  production", &tls, 1));
        harness.project.save("With TLS");
        Self { harness, chain, key }
    }

    /// Puts a new pair in the place of the files; the certificate's fingerprint.
    fn make_certificate(&self) -> String {
        let made = openssl(|openssl| {
            openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
            openssl.args(["-nodes", "-days", "30", "-subj", "/CN=shop", "-addext"]);
            openssl.arg(format!("subjectAltName=DNS:{NAME}"));
            openssl.arg("-keyout").arg(&self.key).arg("-out").arg(&self.chain);
        });
        assert!(made.status.success(), "{}", text(&made.stderr));
        let printed = openssl(|openssl| {
            openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&self.chain);
        });
        fingerprint(&printed).expect("a certificate")
    }

    fn status(&self) -> Value {
        self.harness.status()
    }

    fn seen(&self) -> Value {
        let status = self.status();
        let environments = status["environments"].as_array().cloned().unwrap_or_default();
        let staging = environments.into_iter().find(|here| here["name"] == "staging");
        staging.unwrap_or_default()["certificate"].take()
    }

    /// The fingerprint of what a client of OpenSSL is shown, once it took it for the name it asked for.
    fn served(&self) -> Option<String> {
        let folder = self.harness.state.join("edge/https");
        let address = std::fs::read_to_string(folder).ok()?;
        let shown = openssl(|openssl| {
            openssl.args(["s_client", "-connect", address.trim(), "-servername", NAME]);
            openssl.args(["-verify_return_error", "-verify_hostname", NAME, "-CAfile"]);
            openssl.arg(&self.chain);
        });
        let mut read = Command::new("openssl");
        read.args(["x509", "-noout", "-fingerprint", "-sha256"]);
        let read = read.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut read = read.spawn().expect("openssl runs");
        let mut pipe = read.stdin.take().expect("piped");
        std::io::Write::write_all(&mut pipe, &shown.stdout).expect("read");
        drop(pipe);
        fingerprint(&read.wait_with_output().expect("openssl ends"))
            .filter(|_| shown.status.success())
    }
}

fn openssl(arguments: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new("openssl");
    arguments(&mut command);
    command.stdin(Stdio::null()).output().expect("openssl runs")
}

fn fingerprint(output: &Output) -> Option<String> {
    let (_, value) = std::str::from_utf8(&output.stdout).ok()?.trim().split_once('=')?;
    Some(value.to_owned())
}

#[test]
fn a_certificate_from_files_is_served_replaced_without_a_restart_and_kept_while_they_are_broken() {
    let mut scene = Scene::new();
    let first = scene.make_certificate();
    scene.harness.start();
    scene.harness.wait_for_live("staging", "With TLS");
    let deaf = "the server has no address for TLS: start it with --https ADDRESS";
    scene.harness.eventually("the missing address is told", || scene.seen()["note"] == deaf);
    assert!(scene.harness.expect(0, &["status"]).contains(deaf));
    scene.harness.terminate_server();

    // Port 0 is a port that lasts, and the address is kept for starts without the flag.
    let flags = ["server", "--listen", "127.0.0.1:0", "--https", "127.0.0.1:0"];
    let mut server = scene.harness.begin(&flags);
    scene.harness.eventually("it carries TLS", || scene.served().as_ref() == Some(&first));
    let address = scene.status()["edge"]["https"].clone();
    signal(server.id(), Signal::SIGTERM);
    server.wait().expect("the server ends");
    scene.harness.start();
    assert_eq!(scene.status()["edge"]["https"], address);
    scene.harness.eventually("nothing is wrong", || scene.seen()["note"].is_null());
    let url = scene.harness.wait_for_live("staging", "With TLS").url;
    let port = address.as_str().expect("an address").rsplit(':').next().expect("a port").to_owned();
    assert_eq!(url, format!("https://{NAME}:{port}"));
    let shown = scene.harness.expect(0, &["status", "staging"]);
    println!("{shown}");
    assert!(shown.contains(&format!("tls        {NAME}\n")) && shown.contains(", for 29 d more; "));

    let (server, edge) = (scene.harness.server_pid(), scene.status()["edge"]["pid"].clone());
    let second = scene.make_certificate();
    scene.harness.eventually("the new one is served", || scene.served().as_ref() == Some(&second));
    std::fs::write(&scene.key, "half a key").expect("written");
    let told = |scene: &Scene| scene.seen()["note"].as_str().unwrap_or_default().to_owned();
    scene.harness.eventually("the broken file is named", || {
        told(&scene).contains(&*scene.key.to_string_lossy())
            && told(&scene).ends_with("the one before stays in force")
    });
    println!("{}", scene.harness.expect(0, &["status", "staging"]));
    assert_eq!(scene.served().as_ref(), Some(&second));
    let third = scene.make_certificate();
    scene
        .harness
        .eventually("the mended one is served", || scene.served().as_ref() == Some(&third));
    scene.harness.eventually("nothing is wrong", || scene.seen()["note"].is_null());
    assert_eq!((scene.harness.server_pid(), &scene.status()["edge"]["pid"]), (server, &edge));

    // The edge serves it alone.
    scene.harness.kill_server();
    assert_eq!(scene.served().as_ref(), Some(&third));

    // And a server that finds the files broken leaves it in force.
    std::fs::write(&scene.key, "half a key").expect("written");
    scene.harness.start();
    scene.harness.eventually("the broken file is named", || {
        told(&scene).ends_with("the one before stays in force")
    });
    assert_eq!(scene.served().as_ref(), Some(&third));
}
