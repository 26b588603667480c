//! A world with scanners in it, an artifact, and a small database of vulnerabilities.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use domain::config::Severity;
use domain::pipeline::StepResult;
use domain::slot::{ArtifactRef, Location};
use domain::{Digest, ServiceName};

use crate::world::World;

/// A vulnerability of Jinja2 before 2.7.2, as osv.dev has it.
const ADVISORY: &str = r#"{"schema_version":"1.6.0","id":"GHSA-8r7q-cvjq-x353","modified":"2024-09-01T00:00:00Z",
"published":"2022-05-14T04:04:14Z","aliases":["CVE-2014-1402"],"summary":"Incorrect Privilege Assignment in Jinja2",
"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"}],
"affected":[{"package":{"ecosystem":"PyPI","name":"jinja2"},"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"2.7.2"}]}]}],
"database_specific":{"severity":"HIGH"}}"#;

/// Where the scanners are; `None`, loudly, where they cannot be had outside CI.
pub fn scanners() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/scanners");
    let made = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    if made.status.success() {
        return Some(String::from_utf8(made.stdout).unwrap().trim().into());
    }
    assert!(std::env::var_os("CI").is_none(), "dev/scanners failed");
    // Not by a macro: what those print in a test that passes is not shown.
    let said = "NOT TESTED: dev/scanners failed, so nobody knows whether the scan stage works\n";
    std::io::stderr().write_all(said.as_bytes()).unwrap();
    None
}

/// A world whose steps find these of the scanners, and nothing else that scans.
pub fn with(world: &mut World, scanners: &Path, names: &[&str]) {
    for name in names {
        let (from, to) = (scanners.join(name), world.path("tools").join(name));
        fs::create_dir_all(world.path("tools")).unwrap();
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).unwrap();
        }
    }
    use_tools(world);
}

/// A world with a program called `name` that does as `script` says.
pub fn with_script(world: &mut World, name: &str, script: &str) {
    let path = world.path("tools").join(name);
    fs::create_dir_all(world.path("tools")).unwrap();
    let _ = fs::remove_file(&path);
    // Asked for its version it says one, and otherwise does as told.
    let asked = "#!/bin/sh\n[ \"$1\" = --version ] && { echo 0; exit 0; }\n";
    fs::write(&path, format!("{asked}{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    use_tools(world);
}

fn use_tools(world: &mut World) {
    // Scanners of the machine would change what is tested.
    let path = format!("{}:/usr/bin:/bin", world.path("tools").display());
    world.restart(&[("PATH", &path)]);
}

/// An artifact with Jinja2 of this version installed.
pub fn jinja(world: &mut World, version: &str) {
    let tree = world.path("artifact");
    let installed = tree.join(format!("lib/python3.11/site-packages/jinja2-{version}.dist-info"));
    fs::create_dir_all(&installed).unwrap();
    let metadata = format!("Metadata-Version: 2.1\nName: Jinja2\nVersion: {version}\n");
    fs::write(installed.join("METADATA"), metadata).unwrap();
    fs::write(installed.join("RECORD"), "").unwrap();
    artifact(world, Digest::of(version), Location::Folder(tree));
}

pub fn artifact(world: &mut World, digest: Digest, location: Location) {
    let service = ServiceName::new("web").unwrap();
    world.artifacts.insert(service, ArtifactRef { digest, location });
}

/// A database for osv-scanner: one vulnerability, and nothing about anything of the other ecosystems.
pub fn database(world: &World) -> PathBuf {
    let folder = world.path("database");
    for ecosystem in ["PyPI", "npm", "Debian", "GIT"] {
        let advisory = if ecosystem == "PyPI" {
            ADVISORY
        } else {
            r#"{"id":"NONE-1","modified":"2024-01-01T00:00:00Z"}"#
        };
        zip(&folder.join(ecosystem).join("all.zip"), advisory);
    }
    folder
}

fn zip(path: &Path, record: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let script = "import sys, zipfile\nzipfile.ZipFile(sys.argv[1], 'w').writestr('record.json', sys.argv[2])";
    let made = Command::new("python3").args(["-c", script]).arg(path).arg(record).status();
    assert!(made.unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

/// Makes the database older than it is.
pub fn aged(database: &Path, days: u64) {
    let archive = fs::File::options().write(true).open(database.join("PyPI/all.zip")).unwrap();
    archive.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).unwrap();
}

/// `build.scan` with these keys, in flow.
pub fn configure(world: &World, keys: &str) {
    world.configure(&format!("{{ scan: {{ {keys} }} }}"), "{ run: sleep 60 }");
}

pub fn found(result: &StepResult) -> u32 {
    result.findings.as_ref().map_or(0, |found| found.at_least(Severity::Low))
}

/// Everything that is kept of a step.
pub fn evidence(world: &World, run: u64, step: &str) -> Vec<PathBuf> {
    let steps = world.path(&format!("state/runs/run-{run}/steps"));
    let folder = fs::read_dir(steps).unwrap().flatten().map(|entry| entry.path()).find(|path| {
        path.file_name().unwrap().to_string_lossy().starts_with(&step.replace(' ', "-"))
    });
    let mut files = Vec::new();
    let mut folders = vec![folder.unwrap()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files
}
