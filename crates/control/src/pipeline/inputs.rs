//! What a step's result depends on. The same inputs, the same result: then it is not run again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use domain::config::{EngineKind, Project, ServiceKind, Step};
use domain::pipeline::Task;
use domain::scan::Inspection;
use domain::slot::{ArtifactRef, Launch};
use domain::{CommitId, Digest, ServiceName};
use serde::{Deserialize, Serialize};

use super::environment::{Variables, decisive};
use super::error::PipelineError;
use super::files::{read_json, write_json};
use super::images::Around;
use super::layout::Layout;
use super::repository::Files;
use super::tools::tools;

/// Everything that decides about a step's result. No value of a variable is in it, only a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inputs {
    pub command: String,
    /// What else the step says: its folder, its reports, how findings are judged.
    pub settings: BTreeMap<String, String>,
    /// Names the listing of its files.
    pub files: Digest,
    pub variables: BTreeMap<String, Digest>,
    pub tools: BTreeMap<String, String>,
    pub artifacts: BTreeMap<ServiceName, Digest>,
    pub platform: String,
}

/// The inputs of a step in a run, as kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub commit: CommitId,
    pub inputs: Inputs,
}

/// What the inputs are taken from.
pub(crate) struct Sources<'a> {
    pub project: &'a Project,
    pub files: &'a Files,
    /// What every step sees.
    pub environment: &'a Variables,
    pub artifacts: &'a BTreeMap<ServiceName, ArtifactRef>,
    /// Images of containers.
    pub images: &'a BTreeMap<ServiceName, ArtifactRef>,
    /// Of the image that is to be built, if one is.
    pub around: Option<&'a Around>,
    /// Makes fingerprints that nobody can look up.
    pub secret: &'a [u8],
}

impl Inputs {
    /// One digest for all of it.
    pub fn key(&self) -> Digest {
        // A struct of maps with text keys always has a JSON form.
        Digest::of(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The inputs of `task`, and the files among them.
    pub fn of(task: &Task, from: &Sources<'_>) -> (Self, Files) {
        match task {
            Task::Command(step) => from.command(step, "command"),
            Task::Integrate(step) => from.integrate(step),
            Task::Scan { step, fail_on } => from.scan(step, &format!("scan {fail_on:?}")),
            Task::Image(service) => from.image(service),
            Task::Container(service) => from.container(service),
            Task::Inspect(inspection) => from.inspection(*inspection),
            Task::NoScanner => from.gather("", "no scanner", &[], &Variables::new()),
        }
    }
}

impl Sources<'_> {
    fn command(&self, step: &Step, kind: &str) -> (Inputs, Files) {
        let own = std::slice::from_ref(&step.folder);
        let paths = if step.inputs.is_empty() { own } else { &step.inputs };
        let (mut inputs, files) = self.gather(&step.run, kind, paths, &step.env);
        // Twins under two names are two steps: each has a result and a log of its own.
        inputs.settings.insert("name".into(), step.name.to_string());
        inputs.settings.insert("in".into(), step.folder.clone());
        for (name, report) in
            [("junit", &step.junit), ("sarif", &step.sarif), ("cyclonedx", &step.cyclonedx)]
        {
            inputs.settings.extend(report.clone().map(|path| (name.into(), path)));
        }
        (inputs, files)
    }

    /// What runs around the command decides too.
    fn integrate(&self, step: &Step) -> (Inputs, Files) {
        let mut step = step.clone();
        if step.inputs.is_empty() {
            step.inputs.push(String::new());
        }
        let (mut inputs, files) = self.command(&step, "integrate");
        for name in &step.with {
            let Some(service) = self.project.services.get(name) else { continue };
            let text = serde_json::to_string(service).unwrap_or_default();
            inputs.settings.insert(
                format!("service {name}"),
                self.fingerprint(name.as_str(), &text).to_string(),
            );
            let tested = match self.project.tested_on() {
                EngineKind::Process => self.artifacts,
                EngineKind::Docker => self.images,
            };
            let artifact = tested.get(name).map(|a| (name.clone(), a.digest.clone()));
            inputs.artifacts.extend(artifact);
        }
        // The same command is another test where it has containers around it.
        if self.project.tested_on() == EngineKind::Docker {
            inputs.settings.insert("engine".into(), "docker".into());
        }
        (inputs, files)
    }

    /// A scanner may look at everything that was built.
    fn scan(&self, step: &Step, kind: &str) -> (Inputs, Files) {
        let (mut inputs, files) = self.command(step, kind);
        inputs.artifacts = self.everything();
        (inputs, files)
    }

    /// The digest of each thing that was built: of a service's image, if it has one, and its tree.
    fn everything(&self) -> BTreeMap<ServiceName, Digest> {
        let mut all: BTreeMap<ServiceName, Digest> = BTreeMap::new();
        for (name, artifact) in self.artifacts.iter().chain(self.images) {
            let digest = match all.get(name) {
                Some(tree) => Digest::of(format!("{tree} {}", artifact.digest)),
                None => artifact.digest.clone(),
            };
            all.insert(name.clone(), digest);
        }
        all
    }

    /// Known for `launchway history`; what tools and databases answer today is asked anew in each run.
    fn inspection(&self, inspection: Inspection) -> (Inputs, Files) {
        let paths: &[String] = match inspection {
            Inspection::Artifacts => &[],
            Inspection::Dockerfiles | Inspection::Secrets => &[String::new()],
        };
        let (mut inputs, files) = self.gather("", inspection.step(), paths, &Variables::new());
        if inspection == Inspection::Artifacts {
            inputs.artifacts = self.everything();
        }
        (inputs, files)
    }

    fn image(&self, name: &ServiceName) -> (Inputs, Files) {
        let service = self.project.services.get(name).map(|service| &service.kind);
        let Some(ServiceKind::Built(built)) = service else {
            return self.gather("", "image", &[], &Variables::new());
        };
        let native = built.native.as_ref();
        let setup = native.and_then(|native| native.setup.as_deref()).unwrap_or_default();
        let context = std::slice::from_ref(&built.context);
        let (mut inputs, files) = self.gather(setup, "image", context, &Variables::new());
        inputs.settings.insert("context".into(), built.context.clone());
        if let Some(Launch::Static(folder)) = native.map(|native| &native.launch) {
            inputs.settings.insert("static".into(), folder.display().to_string());
        }
        (inputs, files)
    }

    /// The files that are sent, and what the Dockerfile is told and begins with.
    fn container(&self, name: &ServiceName) -> (Inputs, Files) {
        let service = self.project.services.get(name).map(|service| &service.kind);
        let (Some(ServiceKind::Built(built)), Some(around)) = (service, self.around) else {
            return self.gather("", "container", &[], &Variables::new());
        };
        let context = std::slice::from_ref(&built.context);
        let (mut inputs, mut files) = self.gather("", "container", context, &Variables::new());
        files.retain(|file, _| {
            let inside = file.strip_prefix(built.context.as_str()).unwrap_or(file);
            Some(file) == around.dockerfile.as_ref()
                || !around.ignore.leaves_out(inside.trim_start_matches('/'))
        });
        inputs.files = Digest::of(serde_json::to_vec(&files).unwrap_or_default());
        // A build sees nothing of our environment, but for what `args` hand on.
        inputs.variables.clear();
        let options = &built.options;
        let mut set = |name: String, value: &str| inputs.settings.insert(name, value.to_owned());
        set("context".into(), &built.context);
        set("dockerfile".into(), around.dockerfile.as_deref().unwrap_or("in the Compose file"));
        options.inline.iter().for_each(|text| {
            set("dockerfile text".into(), Digest::of(text).as_str());
        });
        options.target.iter().for_each(|target| {
            set("target".into(), target);
        });
        for (arg, value) in &options.args {
            set(format!("arg {arg}"), self.fingerprint(arg, value).as_str());
        }
        for (label, value) in &options.labels {
            set(format!("label {label}"), value);
        }
        for (host, address) in &options.extra_hosts {
            set(format!("host {host}"), address);
        }
        for secret in &options.secrets {
            set(format!("secret {}", secret.id), "");
        }
        for (base, id) in &around.bases {
            set(format!("base image {base}"), id);
        }
        (inputs, files)
    }

    fn gather(
        &self,
        command: &str,
        kind: &str,
        paths: &[String],
        own: &Variables,
    ) -> (Inputs, Files) {
        let files: Files = self
            .files
            .iter()
            .filter(|(file, _)| paths.iter().any(|path| below(file, path)))
            .map(|(file, object)| (file.clone(), object.clone()))
            .collect();
        let mut variables = decisive(self.environment);
        variables.extend(own.clone());
        let path = own.get("PATH").or(self.environment.get("PATH"));
        let inputs = Inputs {
            command: command.to_owned(),
            settings: BTreeMap::from([("kind".into(), kind.into())]),
            files: Digest::of(serde_json::to_vec(&files).unwrap_or_default()),
            variables: variables
                .iter()
                .map(|(name, value)| (name.clone(), self.fingerprint(name, value)))
                .collect(),
            tools: tools(command, path.map_or("", String::as_str)),
            artifacts: BTreeMap::new(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
        };
        (inputs, files)
    }

    /// Equal for equal values, and says nothing about them.
    fn fingerprint(&self, name: &str, value: &str) -> Digest {
        let mut text = self.secret.to_vec();
        for part in [name, value] {
            text.extend(part.len().to_le_bytes());
            text.extend(part.as_bytes());
        }
        Digest::of(text)
    }
}

/// `file` is `path` or lies below it; the empty path is the root.
fn below(file: &str, path: &str) -> bool {
    let path = path.trim_matches('/');
    path.is_empty()
        || file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Keeps the inputs of a step; listings are shared, so that an unchanged run writes little.
pub(crate) fn keep(
    layout: &Layout,
    step: &Path,
    manifest: &Manifest,
    files: &Files,
) -> Result<(), PipelineError> {
    let listing = layout.listing(&manifest.inputs.files);
    if !listing.exists() {
        write_json(&listing, files)?;
    }
    write_json(&super::layout::manifest(step), manifest)
}

/// The files that a manifest names.
pub(crate) fn files_of(layout: &Layout, manifest: &Manifest) -> Files {
    read_json(&layout.listing(&manifest.inputs.files)).unwrap_or_default()
}

/// The secret of this state folder's fingerprints, made on first use.
pub(crate) fn secret(layout: &Layout) -> Result<Vec<u8>, PipelineError> {
    let path = layout.key();
    let make = || -> io::Result<Vec<u8>> {
        if let Ok(secret) = fs::read(&path)
            && secret.len() == 32
        {
            return Ok(secret);
        }
        let mut secret = [0; 32];
        io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut secret)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let fresh = folder.join(format!(".key-{}", hex::encode(&secret[..8])));
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        io::Write::write_all(&mut file, &secret)?;
        // Whoever links first has made the key; everybody reads that one.
        let linked = fs::hard_link(&fresh, &path);
        fs::remove_file(&fresh)?;
        match linked {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => fs::read(&path),
        }
    };
    make().map_err(|e| PipelineError::new(format!("making {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::below;

    #[test]
    fn inputs_are_whole_folders_and_files() {
        assert!(below("backend/main.py", "backend") && below("backend/main.py", ""));
        assert!(below("Makefile", "Makefile") && below("a/b", "a/"));
        assert!(!below("backend2/main.py", "backend"));
    }
}
