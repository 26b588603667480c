//! An image of the Docker Engine: saved for the scanners, which may not ask the Engine.

use std::fs;
use std::process::Command;

use domain::config::Severity;
use domain::pipeline::Outcome;
use domain::slot::{ArtifactRef, Location};
use domain::{Digest, ServiceName};

use crate::place::{configure, database, evidence, scanners, with};
use crate::world::World;

const STEP: &str = "scan artifacts";

/// An image with Jinja2 of this version in it; removed when it is dropped.
struct Image {
    tag: String,
    id: Digest,
}

impl Image {
    fn with_jinja(world: &World, version: &str) -> Self {
        let context = world.path(&format!("context-{version}"));
        let package = format!("jinja2-{version}.dist-info");
        fs::create_dir_all(context.join(&package)).unwrap();
        let metadata = format!("Metadata-Version: 2.1\nName: Jinja2\nVersion: {version}\n");
        fs::write(context.join(&package).join("METADATA"), metadata).unwrap();
        let dockerfile = format!(
            "FROM scratch\nCOPY {package} /usr/lib/python3/dist-packages/{package}\nCMD [\"none\"]\n"
        );
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let tag = format!("launchway-test-scan:{}-{version}", std::process::id());
        let id = docker(&["build", "-q", "-t", &tag, context.to_str().unwrap()]);
        Self { tag, id: Digest::new(id.trim_start_matches("sha256:")).unwrap() }
    }

    fn artifact(&self) -> ArtifactRef {
        let location = Location::Image { image: self.tag.clone(), pushed: None };
        ArtifactRef { digest: self.id.clone(), location }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", &self.tag]).output();
    }
}

fn docker(arguments: &[&str]) -> String {
    let output =
        Command::new("docker").env("DOCKER_BUILDKIT", "0").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn engine_answers() -> bool {
    let asked =
        Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    if asked.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let wanted =
        ["CI", "LAUNCHWAY_REQUIRE_DOCKER"].iter().any(|name| std::env::var_os(name).is_some());
    assert!(!wanted, "no Docker Engine answers");
    eprintln!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
    false
}

#[tokio::test]
async fn a_planted_vulnerable_package_is_found_in_an_image() {
    let Some(scanners) = scanners().filter(|_| engine_answers()) else { return };
    let mut world = World::new("{ test: [] }");
    with(&mut world, &scanners, &["syft", "osv-scanner"]);
    let database = format!("database: {{ path: {} }}", database(&world).display());
    let web = ServiceName::new("web").unwrap();

    let image = Image::with_jinja(&world, "2.4.1");
    world.images.insert(web.clone(), image.artifact());
    for (run, bills) in [(1, "syft"), (2, "off")] {
        configure(&world, &format!("sbom: {bills}, vulnerabilities: osv-scanner, {database}"));
        let result = world.run(run, STEP).await;
        assert_eq!(result.outcome, Outcome::Failed, "{result:?}\n{}", world.log(run, STEP));
        let cause = result.cause.unwrap();
        assert!(cause.contains("web: ") && cause.contains("CVE-2014-1402"), "{cause}");
        assert_eq!(result.findings.unwrap().at_least(Severity::High), 1);
    }
    assert!(evidence(&world, 1, STEP).iter().any(|path| path.ends_with("reports/web.cdx.json")));

    let image = Image::with_jinja(&world, "3.1.4");
    world.images.insert(web.clone(), image.artifact());
    let result = world.run(3, STEP).await;
    assert_eq!(result.outcome, Outcome::Passed, "{result:?}\n{}", world.log(3, STEP));

    let gone = Digest::of("an image that nobody has");
    let location = Location::Image { image: "launchway-test-scan:gone".into(), pushed: None };
    world.images.insert(web, ArtifactRef { digest: gone, location });
    let result = world.run(4, STEP).await;
    assert_eq!(result.outcome, Outcome::Unavailable, "{result:?}");
    assert!(result.cause.unwrap().contains("launchway-test-scan:gone of web cannot be looked at"));
}
