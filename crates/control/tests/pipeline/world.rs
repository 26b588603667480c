//! A small app in a git repository of its own, and a pipeline that builds it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use control::pipeline::{Images, Pipeline, PipelineConfig, RunAs, StepRequest};
use domain::config::Project;
use domain::pipeline::{PlannedStep, StepResult, plan};
use domain::slot::ArtifactRef;
use domain::{CommitId, RunId, ServiceName, StepName};
use engine::Engine;
use engine::process::{ProcessConfig, ProcessEngine, ShimCommand, Unprivileged};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// An app under test. Everything of it lies in one temporary folder.
pub struct World {
    folder: TempDir,
    pub engine: Arc<dyn Engine>,
    pub pipeline: Pipeline,
    /// Where its images are built, as long as they are of containers.
    pub docker: Arc<Images>,
    pub artifacts: BTreeMap<ServiceName, ArtifactRef>,
    pub images: BTreeMap<ServiceName, ArtifactRef>,
    user: Option<RunAs>,
}

const COMPOSE: &str = "
services:
  web:
    build: ./web
    environment:
      CACHE: ${CACHE_HOST:-cache}:${CACHE_PORT:-6379}
      TOKEN: ${TOKEN:?a token}
    depends_on: [cache]
  cache:
    image: redis:7-alpine
";

/// The environment of the server in these tests; the last two are nobody's business.
const OURS: [(&str, &str); 5] = [
    ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ("LANG", "C.UTF-8"),
    ("https_proxy", ""),
    ("CLOUD_SECRET", "hunter2"),
    ("HOME", "/nowhere"),
];

impl World {
    /// An app whose `build` in `launchway.yaml` is `build`, in flow or indented by two.
    pub fn new(build: &str) -> Self {
        Self::with_native(build, "{ run: sleep 60 }", &[])
    }

    /// With a `native` for its service, and more of our environment.
    pub fn with_native(build: &str, native: &str, more: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let repository = folder.path().join("repository");
        fs::create_dir(&repository).unwrap();
        git(&repository, &["init", "--quiet", "--initial-branch=main"]);
        let path = |name: &str| folder.path().join(name);
        let user = Unprivileged::detect().unwrap();
        let config = ProcessConfig {
            state: path("engine"),
            shim: ShimCommand { program: shim(), args: Vec::new() },
            run_as: user.clone(),
        };
        let engine: Arc<dyn Engine> = Arc::new(ProcessEngine::new(config));
        let ours = OURS.iter().chain(more);
        let environment = ours.map(|(n, v)| (n.to_string(), v.to_string())).collect();
        let user = user.map(|user| RunAs { uid: user.uid, gid: user.gid });
        let pipeline = open(folder.path(), "repository", &engine, user, environment);
        let (artifacts, images) = (BTreeMap::new(), BTreeMap::new());
        let docker = Arc::new(Images::new(&path("state")));
        let world = Self { pipeline, docker, engine, artifacts, images, folder, user };
        world.write("compose.yaml", COMPOSE);
        world.write("web/server.py", "print('tea')");
        world.configure(build, native);
        world
    }

    /// Another `build` and another `native`.
    pub fn configure(&self, build: &str, native: &str) {
        let health = if native.contains("static:") { "" } else { "health: /health, " };
        let text = format!(
            "app: tea\nservices:\n  web: {{ {health}native: {native} }}\nroutes: {{ /: web }}\n\
             build: {build}\nenvironments:\n  staging: {{ engine: process, variables: {{ TOKEN: s }} }}\n"
        );
        self.write("launchway.yaml", &text);
    }

    /// The same app for the Docker engine.
    pub fn in_containers(&self) {
        let text = "app: tea\nservices:\n  web: { health: /health }\nroutes: { /: web }\nbuild: {}\n\
                    environments:\n  staging: { engine: docker, variables: { TOKEN: s } }\n";
        self.write("launchway.yaml", text);
    }

    /// Its images, as a server sees them that has just been started.
    pub fn fresh_docker(&self) -> Images {
        Images::new(&self.path("state"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The pipeline as a server sees it that was started anew, with another environment.
    pub fn restart(&mut self, environment: &[(&str, &str)]) {
        let ours = OURS.iter().chain(environment);
        let environment = ours.map(|(n, v)| (n.to_string(), v.to_string())).collect();
        self.pipeline =
            open(self.folder.path(), "repository", &self.engine, self.user, environment);
    }

    /// A pipeline of a project in another folder.
    pub fn pipeline_of(&self, project: &str) -> Pipeline {
        let environment = OURS.map(|(n, v)| (n.to_string(), v.to_string())).into();
        open(self.folder.path(), project, &self.engine, self.user, environment)
    }

    /// Makes somebody else the owner of the repository; only root can.
    pub fn give_repository_to(&self, uid: u32) {
        let owner = format!("{uid}:{uid}");
        let chown =
            Command::new("chown").arg("-R").arg(owner).arg(self.path("repository")).status();
        assert!(chown.unwrap().success());
    }

    /// A file of the user's work tree.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path("repository").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Runs git in the repository; what it says.
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.path("repository"), arguments)
    }

    /// Commits everything.
    pub fn commit(&self) -> CommitId {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "Steep it longer"]);
        CommitId::new(self.git(&["rev-parse", "HEAD"])).unwrap()
    }

    /// Commits everything and performs the step called `name` as run number `run`.
    pub async fn run(&self, run: u64, name: &str) -> StepResult {
        self.run_until(run, name, CancellationToken::new()).await
    }

    pub async fn run_until(&self, run: u64, name: &str, cancel: CancellationToken) -> StepResult {
        let commit = self.commit();
        let (_, project) = self.pipeline.plan(&commit).await.unwrap();
        self.perform(run, &commit, &project, name, cancel).await
    }

    pub async fn perform(
        &self,
        run: u64,
        commit: &CommitId,
        project: &Project,
        name: &str,
        cancel: CancellationToken,
    ) -> StepResult {
        let step = &step_called(project, name);
        let run = &RunId::nth(run);
        let (artifacts, images) = (&self.artifacts, &self.images);
        let request = StepRequest { run, commit, project, step, artifacts, images };
        self.pipeline.step(request, cancel).await
    }

    /// What a step of a run has said.
    pub fn log(&self, run: u64, name: &str) -> String {
        let step = StepName::new(name).unwrap();
        let path = self.pipeline.log_path(RunId::nth(run).as_str(), &step);
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Why a step ran again.
    pub async fn why(&self, run: u64, name: &str) -> Vec<String> {
        let step = StepName::new(name).unwrap();
        let differences = self.pipeline.why(&RunId::nth(run), &step).await.unwrap();
        differences.iter().map(ToString::to_string).collect()
    }
}

/// Performs a step with a pipeline of one's own.
pub async fn perform(
    pipeline: &Pipeline,
    run: u64,
    commit: &CommitId,
    project: &Project,
    step: &PlannedStep,
) -> StepResult {
    let run = &RunId::nth(run);
    let (artifacts, images) = (&BTreeMap::new(), &BTreeMap::new());
    let request = StepRequest { run, commit, project, step, artifacts, images };
    pipeline.step(request, CancellationToken::new()).await
}

fn open(
    folder: &Path,
    project: &str,
    engine: &Arc<dyn Engine>,
    run_as: Option<RunAs>,
    environment: BTreeMap<String, String>,
) -> Pipeline {
    let config = PipelineConfig {
        state: folder.join("state"),
        repository: folder.join(project),
        engine: engine.clone(),
        images: Arc::new(Images::new(&folder.join("state"))),
        run_as,
        environment,
    };
    Pipeline::new(config).unwrap()
}

pub fn step_called(project: &Project, name: &str) -> PlannedStep {
    plan(project).into_iter().find(|step| step.name.as_str() == name).unwrap()
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process whose command line contains `text` runs.
pub fn runs(text: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(text))
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=Mei", "-c", "user.email=mei@example.org"]);
    let output = git.args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The shim, beside the test itself; built if it is not there or old.
fn shim() -> PathBuf {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--offline",
                "--package",
                "engine",
                "--bin",
                "launchway-shim",
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.unwrap().success(), "the shim does not build");
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("launchway-shim")
    };
    SHIM.get_or_init(build).clone()
}
