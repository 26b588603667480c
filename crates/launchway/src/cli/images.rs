//! Images that Launchway built from a folder. They stay when everything else is taken down, as with Docker Compose: the
//! next `up` has no need to build them, and a release that was built once can be deployed again.

use std::collections::BTreeMap;
use std::path::Path;

use engine::docker::build::{Image, ImageBuilder};
use engine::docker::project::FOLDER;
use engine::docker::{STATE_LABEL, state_label};

use super::Globals;

/// Names that are said.
const SHOWN: usize = 5;

/// Those of one label.
pub struct Built {
    label: String,
    names: Vec<String>,
}

impl Built {
    /// What there is, and how it goes, in a sentence.
    pub fn said(&self) -> String {
        let count = match self.names.len() {
            1 => "1 image that was".into(),
            several => format!("{several} images that were"),
        };
        let more = self.names.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = self.names[..self.names.len().min(SHOWN)].join(", ") + &more;
        let label = self.label.replace('\'', "'\\''");
        format!(
            "{count} built here: {names}; `docker image ls -q --filter 'label={label}' | sort -u | xargs docker image rm` \
             removes them, but for what a container uses"
        )
    }
}

/// Whether there can be anything on a Docker Engine: who never had one has none.
pub fn may_be() -> bool {
    std::env::var_os("DOCKER_HOST").is_some() || Path::new("/var/run/docker.sock").exists()
}

/// What the Engine has of this folder: by `up`, and by the environments of its server. Nothing where none answers.
pub async fn built(globals: &Globals) -> Vec<Built> {
    if !may_be() {
        return Vec::new();
    }
    let Ok(builder) = ImageBuilder::connect().await else { return Vec::new() };
    let folder = globals.directory.canonicalize().unwrap_or_else(|_| globals.directory.clone());
    let state = globals.state();
    let state = state_label(&state.canonicalize().unwrap_or(state));
    let mut all = Vec::new();
    for (name, value) in [(FOLDER, folder.to_string_lossy().into_owned()), (STATE_LABEL, state)] {
        let label = BTreeMap::from([(name.to_owned(), value.clone())]);
        let images = builder.labelled(&label).await.unwrap_or_default();
        let names: Vec<String> = images.iter().map(called).collect();
        if !names.is_empty() {
            all.push(Built { label: format!("{name}={value}"), names });
        }
    }
    all
}

fn called(image: &Image) -> String {
    match image.tags.first() {
        Some(tag) => tag.clone(),
        None => image.id.as_str()[..12].to_owned(),
    }
}
