//! What a server has used: processor time to the nanosecond, memory as its proportional share.

use std::fs;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// The use of a process and all its children.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time of all threads, also those that have ended.
    pub cpu: Duration,
    /// PSS: private memory, and of shared memory the share of each process. Bytes.
    pub memory: u64,
}

/// What the processes of `root` have used until now.
pub fn usage(root: Pid) -> Usage {
    let of = |pid: Pid| Usage { cpu: cpu(pid), memory: memory(pid) };
    processes_of(root).into_iter().map(of).fold(Usage::default(), |sum, one| Usage {
        cpu: sum.cpu + one.cpu,
        memory: sum.memory + one.memory,
    })
}

/// `root` and all that descend from it.
pub fn processes_of(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        found.extend(children(pid));
    }
    found
}

/// The children of all threads of a process; none if it has ended.
fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|line| line.split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .collect()
}

/// The clock of the whole process (`clock_getcpuclockid(3)`): finer than the 10 ms ticks of `/proc/PID/stat`.
pub fn cpu(pid: Pid) -> Duration {
    clock_getcpuclockid(pid).and_then(clock_gettime).map_or(Duration::ZERO, Duration::from)
}

fn memory(pid: Pid) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
