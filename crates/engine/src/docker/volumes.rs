//! Named volumes: made before the container that wants them, and removed by nothing but `down --with-data`.

use std::collections::HashMap;

use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::{
    ListVolumesOptions, ListVolumesOptionsBuilder, RemoveVolumeOptions,
};
use domain::EnvironmentName;

use super::DockerEngine;
use super::connect::{Trouble, is_done, is_missing};
use super::labels;

impl DockerEngine {
    /// What the volume is called on the Engine, whether it is there or not: the name that it has, or will get.
    pub(super) async fn volume_name(
        &self,
        app: &str,
        environment: &EnvironmentName,
        volume: &str,
    ) -> Result<(String, bool), Trouble> {
        let ours = self.volumes(environment).await?;
        let found =
            ours.into_iter().find(|v| v.labels.get(labels::VOLUME).is_some_and(|n| n == volume));
        if let Some(found) = found {
            return Ok((found.name, true));
        }
        let name = labels::volume(app, environment, volume);
        match self.docker().await?.inspect_volume(&name).await {
            Err(error) if is_missing(&error) => Ok((name, false)),
            // Of another installation, or of nobody we know: never its data.
            Ok(_) => Ok((format!("{name}-{}", &self.state[..8]), false)),
            Err(error) => Err(self.trouble(error)),
        }
    }

    /// Makes it if it is not there. Answers its name.
    pub(super) async fn ensure_volume(
        &self,
        app: &str,
        environment: &EnvironmentName,
        volume: &str,
    ) -> Result<String, Trouble> {
        let key = self.records.environment(environment).join("volume").join(volume);
        let _guard = self.records.guard(&key).await;
        let (name, there) = self.volume_name(app, environment, volume).await?;
        if there {
            return Ok(name);
        }
        let labels = labels::of(&[
            (labels::STATE, &self.state),
            (labels::APP, app),
            (labels::ENVIRONMENT, environment.as_str()),
            (labels::VOLUME, volume),
        ]);
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        let made = self.docker().await?.create_volume(request).await;
        made.map_err(|error| self.trouble(error))?;
        Ok(name)
    }

    /// Volumes of the environment.
    pub(super) async fn volumes(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Vec<Volume>, Trouble> {
        let filter: HashMap<String, Vec<String>> = labels::filter(&[
            (labels::STATE, &self.state),
            (labels::ENVIRONMENT, environment.as_str()),
        ]);
        let options: ListVolumesOptions = ListVolumesOptionsBuilder::new().filters(&filter).build();
        let listed = self.docker().await?.list_volumes(Some(options)).await;
        Ok(listed.map_err(|error| self.trouble(error))?.volumes.unwrap_or_default())
    }

    pub(super) async fn drop_volume(&self, name: &str) -> Result<(), Trouble> {
        match self.docker().await?.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(error) if !is_done(&error) => Err(self.trouble(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn drop_volumes(&self, environment: &EnvironmentName) -> Result<(), Trouble> {
        for volume in self.volumes(environment).await? {
            self.drop_volume(&volume.name).await?;
        }
        Ok(())
    }
}
