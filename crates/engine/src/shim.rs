//! The supervisor of one command: a process of its own that outlives the server.
//!
//! ```text
//! server ──starts──▶ shim ──▶ command          the shim: holds the unit's lock, owns the output,
//!    ▲                │  │                      restarts, stops, and adopts every orphan of the
//!    └── status.json ◀┘  └──▶ log, log.1        command (subreaper), so that nothing gets away
//! ```
//! SIGTERM means: stop the command (its signal, its grace, then SIGKILL to all of it) and end.
//! If the shim itself is killed, the kernel kills the command (PR_SET_PDEATHSIG); whoever starts the
//! next shim has the lock, and sweeps up what is left before anything is started again.
//! Synchronous, one thread, few allocations: there is one per replica.

mod child;
mod lean;
mod log;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use domain::Timestamp;
use domain::slot::Exit;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};

use crate::lock::FileLock;
use crate::proc::{self, ProcessRef};
use crate::process::tail;
use crate::unit::{Backoff, Mode, Phase, Unit, UnitSpec, UnitStatus};

pub(crate) use log::numbered as numbered_log;

/// How a shim ends when another one attends to the unit already.
pub(crate) const ALREADY_ATTENDED: i32 = 75;

/// Between two tries to write a status that the disk did not take.
const SAY_AGAIN: Duration = Duration::from_millis(500);

/// Runs the unit whose `spec.json` is the first argument.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ! {
    let code = match args.next() {
        Some(spec) => run(Path::new(&spec)),
        None => Err(io::Error::other("the path of a spec.json is missing")),
    };
    std::process::exit(code.unwrap_or_else(|error| {
        eprintln!("launchway shim: {error}");
        1
    }))
}

fn run(spec_path: &Path) -> io::Result<i32> {
    // Fails only where the caller made it a session leader already.
    let _ = setsid();
    prctl::set_child_subreaper(true)?;
    std::env::set_current_dir("/")?;
    let unit = Unit::at(spec_path.parent().unwrap_or(Path::new("/")));
    let Some(lock) = FileLock::take(&unit.lock_path())? else { return Ok(ALREADY_ATTENDED) };
    let spec = unit.spec().ok_or_else(|| {
        io::Error::other(format!("{} is not the spec of a unit", spec_path.display()))
    })?;
    let mut shim = Shim::new(unit, spec, lock)?;
    match shim.spec.mode.clone() {
        Mode::Keep(backoff) => shim.keep(backoff)?,
        Mode::Once { time_limit, lock, .. } => shim.once(time_limit, lock.as_deref())?,
    }
    Ok(0)
}

struct Shim {
    unit: Unit,
    spec: UnitSpec,
    status: UnitStatus,
    signals: SignalFd,
    output: OwnedFd,
    /// The end that commands get; kept open so that the pipe outlives each of them.
    output_of_child: OwnedFd,
    log: log::Log,
    /// When to write the status again that the disk did not take.
    unsaid: Option<Instant>,
    _lock: FileLock,
}

/// Why waiting ended.
enum Event {
    Stop,
    Exited(Exit),
    Deadline,
}

impl Shim {
    fn new(unit: Unit, spec: UnitSpec, lock: FileLock) -> io::Result<Self> {
        let before = unit.status();
        sweep(&unit, before.as_ref());
        let signals = catch_signals()?;
        let (output, output_of_child) = child::output_pipe(spec.user)?;
        let log = {
            let path = spec.log.path.clone().unwrap_or_else(|| unit.log_path());
            log::Log::open(path, spec.log.size, spec.log.full)?
        };
        // It ran before and its supervisor died: that is a restart too.
        let same =
            before.filter(|s| s.digest == spec.digest && s.phase != Phase::Ended && !spec.once());
        let own = ProcessRef::of(std::process::id())
            .ok_or_else(|| io::Error::other("/proc does not know this process"))?;
        let mut status = UnitStatus {
            digest: spec.digest.clone(),
            boot: proc::boot(),
            shim: own,
            child: None,
            phase: Phase::Starting,
            restarts: same.as_ref().map_or(0, |s| s.restarts + 1),
            last_exit: same.as_ref().and_then(|s| s.last_exit),
            last_exit_at: same.as_ref().and_then(|s| s.last_exit_at),
            ends: same.as_ref().map_or(Vec::new(), |s| s.ends.clone()),
            last_words: same.as_ref().and_then(|s| s.last_words.clone()),
            started: None,
        };
        // The kernel killed its command with it, and nobody saw that.
        if same.is_some_and(|s| s.phase == Phase::Running && s.boot == status.boot) {
            status.last_exit = Some(Exit::Unknown);
            status.last_exit_at = Some(now());
            status.note_crash(now(), tail::last_words(&unit));
        }
        let mut shim = Self {
            unit,
            spec,
            status,
            signals,
            output,
            output_of_child,
            log,
            unsaid: None,
            _lock: lock,
        };
        shim.publish()?;
        Ok(shim)
    }

    /// Keeps the command running until it is asked to stop.
    fn keep(&mut self, backoff: Backoff) -> io::Result<()> {
        let mut pause = backoff.first;
        loop {
            let began = Instant::now();
            let event = self.start().map_or_else(Event::Exited, |()| {
                lean::drop_code();
                self.wait(None)
            });
            let Event::Exited(exit) = event else { return self.stop(None) };
            self.kill_all();
            // Nobody wants it any more: whoever said so let it run to its own end.
            let unwanted = !self.unit.spec_path().exists();
            if unwanted || backoff.until_success && exit == Exit::Code(0) {
                return self.ended(Phase::Ended, exit);
            }
            if began.elapsed() >= backoff.stable {
                pause = backoff.first;
            }
            self.note_end(Phase::Waiting, exit);
            self.status.note_crash(now(), tail::last_words(&self.unit));
            self.say();
            if let Event::Stop = self.wait(Some(Instant::now() + pause)) {
                return self.stop(None);
            }
            pause = (pause * 2).min(backoff.most);
            self.status.restarts = self.status.restarts.saturating_add(1);
        }
    }

    /// Runs the command to its end, its limit or until it is asked to stop.
    fn once(&mut self, limit: Duration, lock: Option<&Path>) -> io::Result<()> {
        let held = match lock {
            Some(path) => match self.wait_for_lock(path, Instant::now() + limit)? {
                Some(lock) => Some(lock),
                None => return Ok(()),
            },
            None => None,
        };
        let event =
            self.start().map_or_else(Event::Exited, |()| self.wait(Some(Instant::now() + limit)));
        match event {
            Event::Stop => self.stop(None)?,
            Event::Deadline => {
                self.log.note(&format!("stopped at its time limit of {limit:?}"));
                self.stop(Some(Exit::TimedOut))?;
            }
            Event::Exited(exit) => {
                self.kill_all();
                self.ended(Phase::Ended, exit)?;
            }
        }
        drop(held);
        Ok(())
    }

    /// Waits for another job to let go. `None`: the unit has ended instead.
    fn wait_for_lock(&mut self, path: &Path, deadline: Instant) -> io::Result<Option<FileLock>> {
        loop {
            if let Some(lock) = FileLock::take(path)? {
                self.sweep_last_holder(path, &lock)?;
                return Ok(Some(lock));
            }
            let step = Instant::now() + Duration::from_millis(20);
            if let Event::Stop = self.wait(Some(step)) {
                self.ended(Phase::Ended, Exit::Signal(Signal::SIGTERM as i32))?;
                return Ok(None);
            }
            if Instant::now() > deadline {
                let holder = std::fs::read_to_string(path).unwrap_or_default();
                self.log.note(&format!("waited in vain for the lock that {holder} holds"));
                self.ended(Phase::Ended, Exit::TimedOut)?;
                return Ok(None);
            }
        }
    }

    /// The last holder's shim is gone, for else it had the lock; its processes may not be.
    fn sweep_last_holder(&self, path: &Path, lock: &FileLock) -> io::Result<()> {
        let last = std::fs::read_to_string(path).unwrap_or_default();
        let own = self.unit.marker();
        if !last.is_empty() && last != own {
            let unit = Unit::at(PathBuf::from(&last));
            sweep(&unit, unit.status().as_ref());
        }
        lock.file().set_len(0)?;
        let mut file = lock.file();
        file.write_all(own.as_bytes())
    }

    /// Starts the command, or says how that counts.
    fn start(&mut self) -> Result<(), Exit> {
        let started = child::spawn(&self.unit, &self.spec, &self.output_of_child);
        let child = match started {
            Ok(child) => child,
            Err(why) => {
                self.log.note(&why);
                return Err(Exit::Code(127));
            }
        };
        self.status.child = Some(child);
        self.status.phase = Phase::Running;
        self.status.started.get_or_insert_with(now);
        self.say();
        Ok(())
    }

    /// Takes output until the command ends, the shim is asked to stop, or the time is over.
    fn wait(&mut self, deadline: Option<Instant>) -> Event {
        loop {
            if let Some(exit) = self.reap().exit {
                return Event::Exited(exit);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Event::Deadline;
            }
            if self.turn(deadline) {
                return Event::Stop;
            }
        }
    }

    /// One turn: waits for output or a signal. Answers whether to stop: by the signal for it, or as nobody listens.
    fn turn(&mut self, deadline: Option<Instant>) -> bool {
        let deadline = deadline.into_iter().chain(self.unsaid).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up: a poll that ends just before its deadline would spin.
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
        });
        let listened = self.spec.streams() && self.status.phase == Phase::Running;
        let listener = io::stdout();
        let mut watched = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.output.as_fd(), PollFlags::POLLIN),
            // Tells only of the other end being closed.
            PollFd::new(listener.as_fd(), PollFlags::empty()),
        ];
        let watched = &mut watched[..if listened { 3 } else { 2 }];
        let _ = poll(watched, timeout);
        let unheard = watched.get(2).and_then(PollFd::any).unwrap_or(false);
        self.drain();
        if self.unsaid.is_some_and(|again| Instant::now() >= again) {
            self.say();
        }
        let mut stop = unheard;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            stop |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        stop
    }

    /// Takes over what the command has written, without waiting, and not for ever.
    fn drain(&mut self) {
        let mut buffer = [0; 8192];
        for _ in 0..64 {
            match nix::unistd::read(&self.output, &mut buffer) {
                Ok(length @ 1..) => self.log.write(&buffer[..length]),
                _ => return,
            }
        }
    }

    /// Collects everything that has ended; orphans of the command are ours too.
    fn reap(&mut self) -> Reaped {
        let mut reaped = Reaped { exit: None, all: false };
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return reaped,
                Err(Errno::ECHILD) => {
                    reaped.all = true;
                    return reaped;
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return reaped,
            };
            if self.status.child.is_some_and(|child| child.pid == pid.as_raw() as u32) {
                reaped.exit = Some(exit);
            }
        }
    }

    /// Stops the command and everything it has started, and ends the unit.
    fn stop(&mut self, verdict: Option<Exit>) -> io::Result<()> {
        self.status.phase = Phase::Stopping;
        self.say();
        let deadline = Instant::now() + self.spec.grace;
        let mut seen = None;
        let mut all_told = false;
        let signal = Signal::try_from(self.spec.stop_signal).unwrap_or(Signal::SIGTERM);
        if let Some(child) = self.status.child {
            let _ = killpg(Pid::from_raw(child.pid as i32), signal);
        }
        // The shell may end before the server it started has: wait for all of them.
        while Instant::now() < deadline {
            let reaped = self.reap();
            seen = seen.or(reaped.exit);
            if reaped.all {
                break;
            }
            if seen.is_some() && !all_told {
                all_told = self.tell_the_rest(signal);
            }
            self.turn(Some(deadline));
        }
        seen = seen.or(self.kill_all());
        let exit = verdict.or(seen).or(self.status.last_exit).unwrap_or(Exit::Unknown);
        self.ended(Phase::Ended, exit)
    }

    /// Passes the signal on to those that left the command's group, once nobody of the group is there who
    /// could. Answers whether that was so.
    fn tell_the_rest(&self, signal: Signal) -> bool {
        let all = proc::all();
        let left = proc::descendants(std::process::id(), &all);
        let group = self.status.child.map(|child| child.pid);
        let in_group =
            |(pid, stat): &(u32, proc::Stat)| Some(stat.group) == group && left.contains(pid);
        if all.iter().any(in_group) {
            return false;
        }
        left.into_iter().for_each(|pid| proc::signal(pid, signal));
        true
    }

    /// Kills whatever is left of the command's family: with a subreaper, all of it is below us.
    fn kill_all(&mut self) -> Option<Exit> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut seen = None;
        loop {
            let reaped = self.reap();
            seen = seen.or(reaped.exit);
            if reaped.all {
                return seen;
            }
            for pid in proc::descendants(std::process::id(), &proc::all()) {
                proc::signal(pid, Signal::SIGKILL);
            }
            if Instant::now() > deadline {
                self.log.note("a process does not die of SIGKILL; the kernel still holds it");
                return seen;
            }
            self.turn(Some(Instant::now() + Duration::from_millis(10)));
        }
    }

    fn ended(&mut self, phase: Phase, exit: Exit) -> io::Result<()> {
        self.note_end(phase, exit);
        self.publish()
    }

    fn note_end(&mut self, phase: Phase, exit: Exit) {
        self.drain();
        self.status.child = None;
        self.status.phase = phase;
        self.status.last_exit = Some(exit);
        self.status.last_exit_at = Some(now());
    }

    /// Publishes now, or as soon as the disk takes it: a full one is no reason to leave the command alone.
    fn say(&mut self) {
        let said = self.publish();
        if let (Err(error), None) = (&said, self.unsaid) {
            self.log.note(&format!("cannot write status.json: {error}"));
        }
        self.unsaid = said.is_err().then(|| Instant::now() + SAY_AGAIN);
    }

    fn publish(&mut self) -> io::Result<()> {
        self.unit.write_status(&self.status, self.spec.once())
    }
}

struct Reaped {
    /// How the command itself ended, if it was among them.
    exit: Option<Exit>,
    /// No child is left.
    all: bool,
}

impl UnitSpec {
    fn once(&self) -> bool {
        matches!(self.mode, Mode::Once { .. })
    }

    /// The command has our standard streams.
    fn streams(&self) -> bool {
        matches!(self.mode, Mode::Once { streams: true, .. })
    }
}

/// Kills what a shim of this unit left behind when it was killed.
pub(crate) fn sweep(unit: &Unit, before: Option<&UnitStatus>) {
    let recorded = before.filter(|status| status.boot == proc::boot());
    let clean = before.is_none_or(|status| status.phase == Phase::Ended);
    if clean {
        return;
    }
    let marker = unit.marker();
    proc::kill_leftovers(recorded.and_then(|status| status.child), |unit| unit == marker);
}

fn catch_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since.as_millis() as i64)
}
