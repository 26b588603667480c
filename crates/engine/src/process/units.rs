//! What lies on disk, for people: the units of an environment, and processes that no unit knows.

use std::path::PathBuf;

use domain::slot::Color;
use domain::{EnvironmentName, ServiceName};

use super::ProcessEngine;
use crate::unit::{Unit, UnitStatus};
use crate::{LogSource, proc};

/// A replica or backing service as its folder shows it.
#[derive(Debug, Clone)]
pub struct UnitView {
    pub source: LogSource,
    /// Where its output goes.
    pub output: PathBuf,
    /// What its shim last said.
    pub status: Option<UnitStatus>,
}

impl ProcessEngine {
    /// Replicas and backing services that were ever started in the environment. Looks, and changes nothing.
    pub fn units(&self, environment: &EnvironmentName) -> Vec<UnitView> {
        let replicas = [Color::Blue, Color::Green].into_iter().flat_map(|slot| {
            let units = self.layout.replicas(environment, slot).into_iter();
            units.map(move |unit| (replica_of(slot, &unit), unit))
        });
        let backings = self.layout.backings(environment).into_iter();
        let backings = backings.map(|unit| (backing_of(&unit), unit));
        let view = |(source, unit): (Option<LogSource>, Unit)| {
            Some(UnitView { source: source?, output: unit.output_path(), status: unit.status() })
        };
        let mut views: Vec<UnitView> = replicas.chain(backings).filter_map(view).collect();
        views.sort_by(|a, b| a.output.cmp(&b.output));
        views
    }

    /// Whether backing services of the environment have data with this engine.
    pub fn has_data(&self, environment: &EnvironmentName) -> bool {
        let data = self.layout.environment(environment).join("data");
        std::fs::read_dir(data).is_ok_and(|mut services| services.next().is_some())
    }

    /// Processes of this state folder whose shim is gone, with the name of what they belonged to.
    pub fn strays(&self) -> Vec<(u32, String)> {
        self.processes_of(|unit| !unit.attended())
    }

    /// Everything that runs of this state folder, with the name of what it belongs to.
    pub fn processes(&self) -> Vec<(u32, String)> {
        self.processes_of(|_| true)
    }

    fn processes_of(&self, wanted: impl Fn(&Unit) -> bool) -> Vec<(u32, String)> {
        let prefix = format!("{}/", self.config.state.display());
        let ours = proc::marked(|unit| unit.starts_with(&prefix) && wanted(&Unit::at(unit)));
        let named = |pid: u32| {
            let unit = proc::marker(pid)?;
            Some((pid, unit.strip_prefix(&prefix)?.to_owned()))
        };
        ours.into_iter().filter_map(named).collect()
    }
}

/// `blue.tea.shop.0`: services may have dots in their names.
fn replica_of(slot: Color, unit: &Unit) -> Option<LogSource> {
    let name = unit.folder().file_name()?.to_str()?;
    let (service, index) = name.split_once('.')?.1.rsplit_once('.')?;
    Some(LogSource::Replica {
        slot,
        service: ServiceName::new(service).ok()?,
        index: index.parse().ok()?,
    })
}

fn backing_of(unit: &Unit) -> Option<LogSource> {
    let service = unit.folder().file_name()?.to_str()?.strip_prefix("backing.")?;
    Some(LogSource::Backing { service: ServiceName::new(service).ok()? })
}
