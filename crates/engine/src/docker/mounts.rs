//! What lies at which path of a container: volumes, folders of the machine, memory, and texts.
//!
//! The text of a secret or config is a file in the state folder, bound read-only: so it works with a read-only root,
//! and `docker inspect` shows a path. The files lie below a folder that others may not enter.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use bollard::models::{Mount as BollardMount, MountTmpfsOptions, MountType};
use domain::EnvironmentName;
use domain::container::{Container, Mount, Source};

use super::DockerEngine;
use super::connect::Trouble;
use super::labels::slug;

/// Whose mounts they are.
pub(super) struct Owner<'a> {
    pub(super) app: &'a str,
    pub(super) environment: &'a EnvironmentName,
    pub(super) service: &'a str,
    /// Where its texts lie: of this slot (or service), and of this digest of what was asked.
    pub(super) texts: PathBuf,
    /// Volumes without a name get one, so that data outlive their container.
    pub(super) keeps: bool,
}

/// The named volumes that the container needs, as the environment calls them.
pub(super) fn volumes_of(
    container: &Container,
    of_image: &[String],
    owner: &Owner<'_>,
) -> Vec<String> {
    let mut names: Vec<String> = container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.source {
            Source::Volume(name) => Some(name.clone()),
            Source::Anonymous if owner.keeps => Some(unnamed(owner.service, &mount.target)),
            _ => None,
        })
        .collect();
    if owner.keeps {
        names.extend(uncovered(container, of_image).map(|path| unnamed(owner.service, path)));
    }
    names
}

fn unnamed(service: &str, path: &str) -> String {
    format!("{service}-{}", slug(path))
}

/// `VOLUME`s of the image that no mount lies on.
pub(super) fn uncovered<'a>(
    container: &'a Container,
    of_image: &'a [String],
) -> impl Iterator<Item = &'a str> {
    let covered = |path: &str| {
        container
            .mounts
            .iter()
            .any(|m| m.target.trim_end_matches('/') == path.trim_end_matches('/'))
    };
    of_image.iter().map(String::as_str).filter(move |path| !covered(path))
}

impl DockerEngine {
    /// Makes the volumes and files that the container needs, and says what is mounted where.
    pub(super) async fn mounts(
        &self,
        container: &Container,
        of_image: &[String],
        owner: &Owner<'_>,
    ) -> Result<Vec<BollardMount>, Trouble> {
        let mut mounts = Vec::new();
        for (number, mount) in container.mounts.iter().enumerate() {
            mounts.push(self.mount(mount, number, owner).await?);
        }
        if owner.keeps {
            for path in uncovered(container, of_image) {
                let name = unnamed(owner.service, path);
                let name = self.ensure_volume(owner.app, owner.environment, &name).await?;
                mounts.push(of_kind(MountType::VOLUME, Some(name), path, false));
            }
        }
        Ok(mounts)
    }

    async fn mount(
        &self,
        mount: &Mount,
        number: usize,
        owner: &Owner<'_>,
    ) -> Result<BollardMount, Trouble> {
        let (target, read_only) = (mount.target.as_str(), mount.read_only);
        let named = match &mount.source {
            Source::Volume(name) => Some(name.clone()),
            Source::Anonymous if owner.keeps => Some(unnamed(owner.service, target)),
            _ => None,
        };
        if let Some(name) = named {
            let name = self.ensure_volume(owner.app, owner.environment, &name).await?;
            return Ok(of_kind(MountType::VOLUME, Some(name), target, read_only));
        }
        match &mount.source {
            Source::Volume(_) | Source::Anonymous => {
                Ok(of_kind(MountType::VOLUME, None, target, read_only))
            }
            Source::Host(path) => {
                let path = path.to_string_lossy().into_owned();
                Ok(of_kind(MountType::BIND, Some(path), target, read_only))
            }
            Source::Project(path) => Err(Trouble::refused(format!(
                "{} of the project is mounted at {target}, but where the project lies was not said",
                path.display()
            ))),
            Source::Tmpfs { size, mode } => {
                let options = MountTmpfsOptions {
                    size_bytes: size.and_then(|size| i64::try_from(size.0).ok()),
                    mode: mode.map(i64::from),
                    options: None,
                };
                let plain = of_kind(MountType::TMPFS, None, target, false);
                Ok(BollardMount { tmpfs_options: Some(options), ..plain })
            }
            Source::Text { text, mode, uid, gid } => {
                let path = owner.texts.join(number.to_string());
                write_file(&path, text.as_bytes(), mode.unwrap_or(0o444), (*uid, *gid)).map_err(
                    |error| {
                        Trouble::refused(format!(
                            "the file for {target} cannot be written: {error}"
                        ))
                    },
                )?;
                let path = path.to_string_lossy().into_owned();
                Ok(of_kind(MountType::BIND, Some(path), target, true))
            }
        }
    }
}

pub(super) fn bind(source: &Path, target: &str) -> BollardMount {
    of_kind(MountType::BIND, Some(source.to_string_lossy().into_owned()), target, true)
}

pub(super) fn of_kind(
    kind: MountType,
    source: Option<String>,
    target: &str,
    read_only: bool,
) -> BollardMount {
    BollardMount {
        typ: Some(kind),
        source,
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..BollardMount::default()
    }
}

/// Others cannot come to it, because they may not enter its folder; in the container `mode` decides.
pub(super) fn write_file(
    path: &Path,
    content: &[u8],
    mode: u32,
    (uid, gid): (Option<u32>, Option<u32>),
) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    if uid.is_some() || gid.is_some() {
        chown(&temporary, uid, gid)?;
    }
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode & 0o777))?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(target: &str, source: Source) -> Mount {
        Mount { source, target: target.into(), read_only: false }
    }

    #[test]
    fn volumes_without_a_name_get_one_where_data_are_to_be_kept() {
        let environment = EnvironmentName::new("staging").unwrap();
        let owner = |keeps| Owner {
            app: "teahouse",
            environment: &environment,
            service: "postgres",
            texts: PathBuf::new(),
            keeps,
        };
        let container = Container {
            mounts: vec![
                at("/var/lib/postgresql/data/", Source::Volume("teas".into())),
                at("/cache", Source::Anonymous),
            ],
            ..Container::default()
        };
        let of_image = ["/var/lib/postgresql/data".to_owned(), "/backups".to_owned()];
        let kept = volumes_of(&container, &of_image, &owner(true));
        assert_eq!(kept, ["teas", "postgres-cache", "postgres-backups"]);
        assert_eq!(volumes_of(&container, &of_image, &owner(false)), ["teas"]);
    }
}
