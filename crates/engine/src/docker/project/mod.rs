//! The containers, networks and volumes of one Compose project, for `launchway up`: small steps, each as often as one
//! likes. In which order they are taken, and why, is decided elsewhere.
//!
//! ```text
//! mod         networks, volumes;  containers: made, looked at, stopped, removed
//! logs        what they write, followed over restarts
//! ```

mod containers;
mod logs;

use std::collections::BTreeMap;

use bollard::models::{NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    InspectNetworkOptions, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    RemoveVolumeOptions,
};

use crate::EngineError;

use super::connect::{Connection, Trouble, is_conflict, is_done, is_missing, status};
use super::labels::{self, Labels};

pub use containers::{Found, Health, Look, Made, Phase, Wish};
pub use logs::{Line, Stream};

/// The name of the project that a thing belongs to.
pub const PROJECT: &str = "dev.launchway.project";
/// The absolute path of its folder.
pub const FOLDER: &str = "dev.launchway.folder";
/// The Compose service of a container.
pub const SERVICE: &str = labels::SERVICE;
/// Which of the service's containers it is, from 1.
pub const INDEX: &str = labels::INDEX;
/// Of everything that the container was made from: another one means that it is made anew.
pub const DIGEST: &str = labels::DIGEST;
/// What Docker Compose marks its own containers, networks and volumes with.
pub const COMPOSE_PROJECT: &str = "com.docker.compose.project";

/// One Engine, asked about single projects.
#[derive(Debug)]
pub struct ProjectEngine {
    connection: Connection,
}

/// A network or volume that is to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Of a network: nothing of outside is reached from it.
    pub internal: bool,
    /// Of a volume: options of the `local` driver.
    pub options: BTreeMap<String, String>,
}

/// What came of wanting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    Made,
    /// It was there, with these labels.
    There(BTreeMap<String, String>),
}

impl Default for ProjectEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl ProjectEngine {
    /// The Engine that `DOCKER_HOST` names, or that of this machine. It is not asked anything yet.
    pub fn new() -> Self {
        Self { connection: Connection::new(None) }
    }

    /// Makes the network if there is none of this name.
    pub async fn ensure_network(&self, network: &Thing) -> Result<Ensured, EngineError> {
        let doing = || format!("making the network {}", network.name);
        if let Some(labels) = self.network(&network.name).await? {
            return Ok(Ensured::There(labels));
        }
        let request = NetworkCreateRequest {
            name: network.name.clone(),
            driver: Some("bridge".into()),
            internal: Some(network.internal),
            attachable: Some(true),
            labels: Some(owned(&network.labels)),
            ..NetworkCreateRequest::default()
        };
        let docker = self.docker(&doing()).await?;
        match docker.create_network(request).await {
            Err(error) if is_conflict(&error) => Ok(Ensured::There(BTreeMap::new())),
            Err(error) => Err(self.failed(&doing(), error)),
            Ok(_) => Ok(Ensured::Made),
        }
    }

    /// The labels of the network of this name, if there is one.
    pub async fn network(
        &self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, EngineError> {
        let doing = format!("looking for the network {name}");
        let docker = self.docker(&doing).await?;
        match docker.inspect_network(name, None::<InspectNetworkOptions>).await {
            Ok(found) => Ok(Some(found.labels.unwrap_or_default().into_iter().collect())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(&doing, error)),
        }
    }

    /// Makes the volume if there is none of this name.
    pub async fn ensure_volume(&self, volume: &Thing) -> Result<Ensured, EngineError> {
        let doing = format!("making the volume {}", volume.name);
        if let Some(labels) = self.volume(&volume.name).await? {
            return Ok(Ensured::There(labels));
        }
        let request = VolumeCreateRequest {
            name: Some(volume.name.clone()),
            driver_opts: Some(owned(&volume.options)),
            labels: Some(owned(&volume.labels)),
            ..VolumeCreateRequest::default()
        };
        let made = self.docker(&doing).await?.create_volume(request).await;
        made.map(|_| Ensured::Made).map_err(|error| self.failed(&doing, error))
    }

    /// The labels of the volume of this name, if there is one.
    pub async fn volume(
        &self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, EngineError> {
        let doing = format!("looking for the volume {name}");
        match self.docker(&doing).await?.inspect_volume(name).await {
            Ok(found) => Ok(Some(found.labels.into_iter().collect())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(self.failed(&doing, error)),
        }
    }

    /// The names of the networks that carry all of these labels.
    pub async fn networks(&self, labels: &[(&str, &str)]) -> Result<Vec<String>, EngineError> {
        let doing = "listing networks";
        let filter = labels::filter(labels);
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        let listed = self.docker(doing).await?.list_networks(Some(options)).await;
        let listed = listed.map_err(|error| self.failed(doing, error))?;
        Ok(listed.into_iter().filter_map(|network| network.name).collect())
    }

    /// The names of the volumes that carry all of these labels.
    pub async fn volumes(&self, labels: &[(&str, &str)]) -> Result<Vec<String>, EngineError> {
        let doing = "listing volumes";
        let filter = labels::filter(labels);
        let options = ListVolumesOptionsBuilder::new().filters(&filter).build();
        let listed = self.docker(doing).await?.list_volumes(Some(options)).await;
        let listed = listed.map_err(|error| self.failed(doing, error))?;
        Ok(listed.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Removes the network; whether it is gone. One that somebody else is in stays.
    pub async fn remove_network(&self, name: &str) -> Result<bool, EngineError> {
        let doing = format!("removing the network {name}");
        match self.docker(&doing).await?.remove_network(name).await {
            Err(error) if status(&error) == Some(403) => Ok(false),
            Err(error) if !is_done(&error) => Err(self.failed(&doing, error)),
            _ => Ok(true),
        }
    }

    /// Removes the volume with its data; whether it is gone. One that a container uses stays.
    pub async fn remove_volume(&self, name: &str) -> Result<bool, EngineError> {
        let doing = format!("removing the volume {name}");
        let docker = self.docker(&doing).await?;
        match docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) if !is_done(&error) => Err(self.failed(&doing, error)),
            _ => Ok(true),
        }
    }

    async fn docker(&self, doing: &str) -> Result<bollard::Docker, EngineError> {
        self.connection.client().await.map_err(|trouble| because(doing, trouble))
    }

    fn failed(&self, doing: &str, error: bollard::errors::Error) -> EngineError {
        because(doing, self.connection.trouble(error))
    }
}

fn because(doing: &str, trouble: Trouble) -> EngineError {
    EngineError::new(doing, trouble.to_string())
}

fn owned(labels: &BTreeMap<String, String>) -> Labels {
    labels.clone().into_iter().collect()
}
