//! What the kernel says about processes: `/proc`, read without surprises about reused pids.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The environment variable that names the unit a process belongs to.
pub const MARKER: &str = "LAUNCHWAY_UNIT";

/// A process, named so that another one with the same pid is never taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRef {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub started: u64,
}

impl ProcessRef {
    /// The process that has this pid now.
    pub fn of(pid: u32) -> Option<Self> {
        stat(pid).map(|stat| Self { pid, started: stat.started })
    }

    /// Still runs; a zombie does not.
    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !stat.dead())
    }
}

/// The part of `/proc/PID/stat` that is used here.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    state: u8,
    pub parent: u32,
    pub group: u32,
    /// User and system time in clock ticks, with that of reaped children.
    pub cpu_ticks: u64,
    pub started: u64,
}

impl Stat {
    fn dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// One process, if it exists.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of the program may hold spaces and brackets: everything counts from the last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        parent: number(4)? as u32,
        group: number(5)? as u32,
        cpu_ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        started: number(22)?,
    })
}

/// Every process with its state.
pub fn all() -> Vec<(u32, Stat)> {
    pids().filter_map(|pid| Some((pid, stat(pid)?))).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Children, grandchildren and so on of `root`, without `root`.
pub fn descendants(root: u32, all: &[(u32, Stat)]) -> Vec<u32> {
    let mut found = Vec::new();
    let mut known = HashSet::from([root]);
    loop {
        let before = found.len();
        for (pid, stat) in all {
            if known.contains(&stat.parent) && !stat.dead() && known.insert(*pid) {
                found.push(*pid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Processes whose marker satisfies `wanted`. One without a readable environment is nobody's.
pub fn marked(wanted: impl Fn(&str) -> bool) -> Vec<u32> {
    let own = std::process::id();
    pids().filter(|pid| *pid != own && marker(*pid).is_some_and(|unit| wanted(&unit))).collect()
}

/// The unit that a process belongs to.
pub fn marker(pid: u32) -> Option<String> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))?;
    String::from_utf8(value.to_vec()).ok()
}

/// Which boot of the machine this is: pids and start times mean nothing beyond it.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Kills what a dead supervisor left behind: its recorded child and every process with a wanted marker.
/// Answers whether all are gone.
pub fn kill_leftovers(child: Option<ProcessRef>, wanted: impl Fn(&str) -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let child = child.filter(|child| child.alive());
        let mut left = marked(&wanted);
        left.extend(child.map(|child| child.pid));
        if left.is_empty() {
            return true;
        }
        for pid in left {
            signal(pid, Signal::SIGKILL);
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal; a process that is gone already is no failure.
pub fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_does_not_shift_the_fields() {
        let line = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 10 20 3 4 20 0 1 0 4242 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.parent, stat.cpu_ticks, stat.started), (1, 37, 4242));
    }

    #[test]
    fn a_reused_pid_is_not_the_same_process() {
        let own = ProcessRef::of(std::process::id()).unwrap();
        assert!(own.alive());
        assert!(!ProcessRef { started: own.started + 1, ..own }.alive());
    }
}
