//! What each replica and backing service uses: CPU and memory of its whole family, disk of its data and logs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use domain::EnvironmentName;
use domain::slot::{Color, SlotSpec, Usage};
use nix::unistd::{SysconfVar, sysconf};

use super::backing::BackingRecord;
use super::layout::Layout;
use super::observe::living_child;
use super::slots;
use crate::proc::{self, ProcessRef, Stat};
use crate::unit::{Unit, read_json};

/// Everything of the environment that runs.
pub(super) fn of(layout: &Layout, environment: &EnvironmentName) -> Vec<Usage> {
    let machine = Machine::now();
    let mut all = Vec::new();
    for slot in [Color::Blue, Color::Green] {
        let Some(spec) = read_json::<SlotSpec>(&layout.slot(environment, slot)) else { continue };
        for service in spec.services.iter().filter(|service| slots::runs(service)) {
            for index in 0..service.replicas {
                let unit = layout.replica(environment, slot, &service.name, index);
                let Some((child, cpu, memory)) = machine.family(&unit) else { continue };
                let (service, disk) = (service.name.clone(), disk_of(unit.folder()));
                all.push(Usage {
                    slot: Some(slot),
                    service,
                    index,
                    pid: child.pid,
                    started: child.started.to_string(),
                    cpu,
                    memory,
                    disk,
                });
            }
        }
    }
    for unit in layout.backings(environment) {
        let record: Option<BackingRecord> = read_json(&unit.folder().join("backing.json"));
        let Some((record, (child, cpu, memory))) = record.zip(machine.family(&unit)) else {
            continue;
        };
        let service = record.spec.service;
        let disk = disk_of(unit.folder()) + disk_of(&layout.data(environment, &service));
        all.push(Usage {
            slot: None,
            service,
            index: 0,
            pid: child.pid,
            started: child.started.to_string(),
            cpu,
            memory,
            disk,
        });
    }
    all
}

struct Machine {
    processes: Vec<(u32, Stat)>,
    cpu: BTreeMap<u32, u64>,
    ticks: u64,
    page: u64,
}

impl Machine {
    fn now() -> Self {
        let configured = |name, usual| match sysconf(name) {
            Ok(Some(value)) => u64::try_from(value).unwrap_or(usual),
            _ => usual,
        };
        let processes = proc::all();
        Self {
            cpu: processes.iter().map(|(pid, stat)| (*pid, stat.cpu_ticks)).collect(),
            processes,
            ticks: configured(SysconfVar::CLK_TCK, 100),
            page: configured(SysconfVar::PAGE_SIZE, 4096),
        }
    }

    /// The unit's process; CPU time and memory of everything below its shim.
    fn family(&self, unit: &Unit) -> Option<(ProcessRef, Duration, u64)> {
        let status = unit.status()?;
        let child = living_child(&status)?;
        let family = proc::descendants(status.shim.pid, &self.processes);
        let ticks: u64 = family.iter().filter_map(|pid| self.cpu.get(pid)).sum();
        let pages: Vec<(u64, u64)> = family.iter().filter_map(|pid| pages_of(*pid)).collect();
        // Shared pages (PostgreSQL's buffers) are the same in each process: counted once.
        let own: u64 =
            pages.iter().map(|(resident, shared)| resident.saturating_sub(*shared)).sum();
        let shared = pages.iter().map(|(_, shared)| *shared).max().unwrap_or(0);
        let cpu = Duration::from_millis(ticks * 1000 / self.ticks.max(1));
        Some((child, cpu, (own + shared) * self.page))
    }
}

/// Resident and shared pages.
fn pages_of(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut numbers = text.split_ascii_whitespace().skip(1).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn disk_of(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let below = match meta.is_dir() {
        true => {
            fs::read_dir(path).into_iter().flatten().flatten().map(|e| disk_of(&e.path())).sum()
        }
        false => 0,
    };
    meta.blocks() * 512 + below
}
