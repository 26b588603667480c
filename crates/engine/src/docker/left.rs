//! What an Engine has of an installation, whatever our records say: for those who have taken everything down.

use bollard::query_parameters::{
    ListImagesOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
};

use super::DockerEngine;
use super::connect::Trouble;
use super::labels;
use crate::EngineError;

impl DockerEngine {
    /// Everything with this installation's label: containers, networks, volumes and images, by kind and name.
    pub async fn left(&self) -> Result<Vec<String>, EngineError> {
        let found = self.look_for_everything().await;
        found.map_err(|trouble| {
            EngineError::new("looking for what is left in Docker", trouble.to_string())
        })
    }

    async fn look_for_everything(&self) -> Result<Vec<String>, Trouble> {
        let docker = self.docker().await?;
        let ours = labels::filter(&[(labels::STATE, &self.state)]);
        let containers = self.containers(&[]).await?;
        let networks = ListNetworksOptionsBuilder::new().filters(&ours).build();
        let networks = docker.list_networks(Some(networks)).await.map_err(|e| self.trouble(e))?;
        let volumes = ListVolumesOptionsBuilder::new().filters(&ours).build();
        let volumes = docker.list_volumes(Some(volumes)).await.map_err(|e| self.trouble(e))?;
        let images = ListImagesOptionsBuilder::new().filters(&ours).build();
        let images = docker.list_images(Some(images)).await.map_err(|e| self.trouble(e))?;
        let mut left = Vec::new();
        for container in containers {
            let names = container.names.unwrap_or_default();
            left.push(format!("container {}", names.join(" ").trim_start_matches('/')));
        }
        left.extend(
            networks.into_iter().map(|n| format!("network {}", n.name.unwrap_or_default())),
        );
        let volumes = volumes.volumes.unwrap_or_default().into_iter();
        left.extend(volumes.map(|volume| format!("volume {}", volume.name)));
        left.extend(images.into_iter().map(|image| format!("image {}", image.repo_tags.join(" "))));
        Ok(left)
    }
}
