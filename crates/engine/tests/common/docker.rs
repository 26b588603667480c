//! A world of containers: an engine over a state folder of its own, and nothing of it left when the test ends.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptions,
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};
use domain::container::{Container, Mount, Source};
use domain::slot::{
    ArtifactRef, BackingSpec, Color, JobSpec, Launch, Location, Place, ServiceSpec,
};
use domain::{Digest, EnvironmentName};
use engine::docker::{STATE_LABEL, state_label};
use engine::{DockerConfig, DockerEngine};

use super::{Home, app, job, name, service};

/// What the replicas of these tests are containers of.
pub const PYTHON: &str = "python:3.11-slim";

/// The server of the tests, for a container that has the artifact as its folder.
pub const SERVE_INSIDE: &str = "HOST=0.0.0.0 exec python3 serve.py";

/// One installation on a Docker Engine. Dropped, it takes everything of its own away, even if the test failed.
pub struct World {
    pub home: Home,
    pub engine: DockerEngine,
    pub docker: Docker,
    socket: Option<std::path::PathBuf>,
    image: ArtifactRef,
}

/// A Docker Engine, if one answers. Where it must, a missing one is a failure.
pub async fn docker() -> Option<Docker> {
    let docker = match Docker::connect_with_defaults() {
        Ok(docker) => docker.ping().await.map(|_| docker),
        Err(error) => Err(error),
    };
    let required = std::env::var("CI").is_ok_and(|value| value == "true")
        || std::env::var("LAUNCHWAY_REQUIRE_DOCKER").is_ok_and(|value| value == "1");
    match docker {
        Ok(docker) => Some(docker.negotiate_version().await.unwrap()),
        Err(error) if required => panic!("no Docker Engine answers: {error}"),
        Err(_) => {
            eprintln!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
            None
        }
    }
}

impl World {
    /// On the machine's Engine; `None`, said loudly, if there is none.
    pub async fn new() -> Option<Self> {
        Some(Self::on(docker().await?, None).await)
    }

    /// On this Engine.
    pub async fn on(docker: Docker, socket: Option<std::path::PathBuf>) -> Self {
        let home = Home::new();
        let found = docker.inspect_image(PYTHON).await;
        let id = found.unwrap_or_else(|error| {
            panic!("the image {PYTHON} is not here ({error}); dev/base-images makes it")
        });
        let digest = Digest::new(id.id.unwrap().trim_start_matches("sha256:")).unwrap();
        let location = Location::Image { image: PYTHON.to_owned(), pushed: None };
        let image = ArtifactRef { digest, location };
        let state = home.path().join("state");
        let engine = DockerEngine::connect(DockerConfig { state, socket: socket.clone() });
        Self { home, engine, docker, socket, image }
    }

    /// A new engine over the same state, as after a restart of the server.
    pub fn again(&self) -> DockerEngine {
        let state = self.home.path().join("state");
        DockerEngine::connect(DockerConfig { state, socket: self.socket.clone() })
    }

    pub fn image(&self) -> ArtifactRef {
        self.image.clone()
    }

    /// The label of everything that this installation makes.
    pub fn label(&self) -> String {
        format!("{STATE_LABEL}={}", state_label(&self.home.path().join("state")))
    }

    /// `sh -c COMMAND` in the folder of the artifact.
    pub fn container(&self, command: &str) -> Container {
        Container {
            command: Some(["sh", "-c", command].map(str::to_owned).into()),
            answers_at: Some(8000),
            working_dir: Some("/srv".into()),
            init: true,
            mounts: vec![
                host(&self.home.artifact(), "/srv"),
                host(&self.home.scratch(), &self.home.scratch().to_string_lossy()),
            ],
            ..Container::default()
        }
    }

    pub fn service(&self, service_name: &str, command: &str) -> ServiceSpec {
        self.service_of(service_name, self.container(command))
    }

    pub fn service_of(&self, service_name: &str, container: Container) -> ServiceSpec {
        ServiceSpec {
            artifact: self.image(),
            launch: Launch::Container(Box::new(container)),
            ..service(&self.home, service_name, "")
        }
    }

    pub fn job(&self, id: &str, command: &str) -> JobSpec {
        let place = Place::Container {
            slot: Color::Blue,
            service: name("web"),
            image: self.image(),
            container: Box::new(Container { init: true, ..Container::default() }),
        };
        JobSpec { place, ..job(&self.home, id, command) }
    }

    pub fn backing(&self, service_name: &str, image: &str) -> BackingSpec {
        let container = Some(Box::new(Container::default()));
        BackingSpec { container, ..super::backing(service_name, image) }
    }

    /// Names of the containers of this installation, in any state.
    pub async fn containers(&self) -> Vec<String> {
        let filter = HashMap::from([("label", vec![self.label()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filter).build();
        let found = self.docker.list_containers(Some(options)).await.unwrap();
        let mut names: Vec<String> =
            found.into_iter().flat_map(|found| found.names.unwrap_or_default()).collect();
        names.sort();
        names
    }

    /// Ids of its networks.
    pub async fn networks(&self) -> Vec<String> {
        let filter = HashMap::from([("label", vec![self.label()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        let found = self.docker.list_networks(Some(options)).await.unwrap();
        found.into_iter().filter_map(|net| net.id).collect()
    }

    pub async fn volumes(&self) -> Vec<String> {
        let filter = HashMap::from([("label", vec![self.label()])]);
        let options: ListVolumesOptions = ListVolumesOptionsBuilder::new().filters(&filter).build();
        let found = self.docker.list_volumes(Some(options)).await.unwrap();
        found.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect()
    }

    async fn sweep(&self) {
        for name in self.containers().await {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let name = name.trim_start_matches('/');
            let _ = self.docker.remove_container(name, Some(options)).await;
        }
        for name in self.networks().await {
            let _ = self.docker.remove_network(&name).await;
        }
        for name in self.volumes().await {
            let _ = self.docker.remove_volume(&name, None::<RemoveVolumeOptions>).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A runtime of its own: the test's may be the one that is unwinding.
        std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let patience = Duration::from_secs(60);
                let sweep = async { tokio::time::timeout(patience, self.sweep()).await };
                runtime.map(|runtime| runtime.block_on(sweep))
            });
            let _ = sweeping.join();
        });
    }
}

/// A folder of the machine, read-only.
pub fn host(source: &std::path::Path, target: &str) -> Mount {
    Mount { source: Source::Host(source.to_owned()), target: target.to_owned(), read_only: true }
}

/// Environment variables from pairs.
pub fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn environment(text: &str) -> EnvironmentName {
    EnvironmentName::new(text).unwrap()
}

/// The name of the app, as the tests use it.
pub fn app_name() -> String {
    app().to_string()
}
