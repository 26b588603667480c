//! What identifies everything that is ours on an Engine, and how it is called.

use std::collections::HashMap;
use std::path::Path;

use domain::slot::Color;
use domain::{Digest, EnvironmentName};

pub(super) const APP: &str = "dev.launchway.app";
pub(super) const ENVIRONMENT: &str = "dev.launchway.environment";
pub(super) const SLOT: &str = "dev.launchway.slot";
pub(super) const SERVICE: &str = "dev.launchway.service";
pub(super) const INDEX: &str = "dev.launchway.index";
pub(super) const RELEASE: &str = "dev.launchway.release";
pub(super) const DIGEST: &str = "dev.launchway.digest";
pub(super) const JOB: &str = "dev.launchway.job";
pub(super) const LOCK: &str = "dev.launchway.lock";
/// The port of the container that answers, and its fixed address where the machine reaches that.
pub(super) const PORT: &str = "dev.launchway.port";
pub(super) const ADDRESS: &str = "dev.launchway.address";
pub(super) const VOLUME: &str = "dev.launchway.volume";
/// Says which installation a thing belongs to, see [`state`].
pub const STATE: &str = "dev.launchway.state";

pub(super) type Labels = HashMap<String, String>;

/// Two installations on one Engine never touch each other's things: each has a state folder of its own.
pub fn state(folder: &Path) -> String {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    Digest::of(absolute.as_os_str().as_encoded_bytes()).as_str()[..16].to_owned()
}

/// `label=value` for each, as list calls take it.
pub(super) fn filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    let pairs = labels.iter().map(|(name, value)| match value.is_empty() {
        true => (*name).to_owned(),
        false => format!("{name}={value}"),
    });
    HashMap::from([("label".to_owned(), pairs.collect())])
}

pub(super) fn get<'a>(labels: &'a Option<Labels>, name: &str) -> &'a str {
    labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
}

/// Owned pairs.
pub(super) fn of(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(super) fn slot_network(app: &str, environment: &EnvironmentName, slot: Color) -> String {
    format!("{app}-{environment}-{slot}")
}

pub(super) fn environment_network(app: &str, environment: &EnvironmentName) -> String {
    format!("{app}-{environment}")
}

pub(super) fn volume(app: &str, environment: &EnvironmentName, name: &str) -> String {
    format!("{app}-{environment}_{name}")
}

/// `/var/lib/data` as part of a name: `var-lib-data`.
pub(super) fn slug(path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.".contains(c) { c } else { '-' };
    path.trim_matches('/').chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_state_folders_are_two_installations() {
        assert_ne!(state(Path::new("/srv/one")), state(Path::new("/srv/two")));
        assert_eq!(state(Path::new("/srv/one")), state(Path::new("/srv/one")));
    }

    #[test]
    fn a_path_becomes_part_of_a_name() {
        assert_eq!(slug("/var/lib/postgresql/data"), "var-lib-postgresql-data");
    }
}
