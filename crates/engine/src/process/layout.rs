//! Where everything lies on disk.

use std::fs;
use std::path::{Path, PathBuf};

use domain::slot::Color;
use domain::{Digest, EnvironmentName, ServiceName};

use crate::unit::Unit;

/// The folder of one app.
#[derive(Debug)]
pub(super) struct Layout {
    state: PathBuf,
}

impl Layout {
    pub(super) fn new(state: PathBuf) -> Self {
        Self { state }
    }

    pub(super) fn environment(&self, name: &EnvironmentName) -> PathBuf {
        self.state.join("environments").join(name.as_str())
    }

    pub(super) fn slot(&self, environment: &EnvironmentName, slot: Color) -> PathBuf {
        self.environment(environment).join("slots").join(format!("{slot}.json"))
    }

    pub(super) fn replica(
        &self,
        environment: &EnvironmentName,
        slot: Color,
        service: &ServiceName,
        index: u32,
    ) -> Unit {
        Unit::at(self.units(environment).join(format!("{slot}.{service}.{index}")))
    }

    pub(super) fn backing(&self, environment: &EnvironmentName, service: &ServiceName) -> Unit {
        Unit::at(self.units(environment).join(format!("backing.{service}")))
    }

    /// A step on the way to a backing service, run once at a time.
    pub(super) fn errand(
        &self,
        environment: &EnvironmentName,
        service: &ServiceName,
        errand: &str,
    ) -> Unit {
        Unit::at(self.environment(environment).join("errands").join(format!("{service}.{errand}")))
    }

    pub(super) fn data(&self, environment: &EnvironmentName, service: &ServiceName) -> PathBuf {
        self.environment(environment).join("data").join(service.as_str())
    }

    pub(super) fn job(&self, environment: &EnvironmentName, id: &str) -> Unit {
        Unit::at(self.environment(environment).join("jobs").join(file_name(id)))
    }

    pub(super) fn job_lock(&self, environment: &EnvironmentName, name: &str) -> PathBuf {
        self.environment(environment).join("locks").join(file_name(name))
    }

    pub(super) fn exec(&self, environment: &EnvironmentName) -> Unit {
        let name = format!("{:016x}", rand::random::<u64>());
        Unit::at(self.environment(environment).join("exec").join(name))
    }

    pub(super) fn supervised(&self, name: &str) -> Unit {
        Unit::at(self.state.join("supervised").join(file_name(name)))
    }

    fn units(&self, environment: &EnvironmentName) -> PathBuf {
        self.environment(environment).join("units")
    }

    /// Replicas that were ever started in the slot.
    pub(super) fn replicas(&self, environment: &EnvironmentName, slot: Color) -> Vec<Unit> {
        let prefix = format!("{slot}.");
        units_in(&self.units(environment)).filter(|unit| name(unit).starts_with(&prefix)).collect()
    }

    /// Backing services that were ever started.
    pub(super) fn backings(&self, environment: &EnvironmentName) -> Vec<Unit> {
        units_in(&self.units(environment)).filter(|u| name(u).starts_with("backing.")).collect()
    }

    pub(super) fn execs(&self, environment: &EnvironmentName) -> Vec<Unit> {
        units_in(&self.environment(environment).join("exec")).collect()
    }

    /// Every unit of the environment, whatever it is for.
    pub(super) fn all(&self, environment: &EnvironmentName) -> Vec<Unit> {
        let folder = self.environment(environment);
        let kinds = ["jobs", "exec", "errands", "units"];
        kinds.iter().flat_map(|kind| units_in(&folder.join(kind))).collect()
    }
}

fn units_in(folder: &Path) -> impl Iterator<Item = Unit> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| Unit::at(entry.path()))
}

fn name(unit: &Unit) -> String {
    unit.folder().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The id itself where it can be a file's name, else one that no other id has.
pub(crate) fn file_name(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=100).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with('.') {
        return id.to_owned();
    }
    let readable: String =
        id.bytes().take(40).map(|b| if plain(b) && b != b'.' { b as char } else { '-' }).collect();
    format!("{readable}~{}", &Digest::of(id).as_str()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_no_file_name_gets_one_of_its_own() {
        assert_eq!(file_name("ro-7.migrate"), "ro-7.migrate");
        for id in ["", "..", ".hidden", "../../etc", "a/b", &"x".repeat(300)] {
            let name = file_name(id);
            assert!(!name.contains('/') && !name.starts_with('.') && name.len() <= 60, "{name}");
        }
        assert_ne!(file_name("a/b"), file_name("a-b"));
    }
}
