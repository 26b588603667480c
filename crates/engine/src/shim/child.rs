//! The birth of the command: its own session, its user, its output, and death with its supervisor.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Uid, fchown, getppid, pipe2, setsid};

use crate::proc::{MARKER, ProcessRef};
use crate::unit::{Unit, UnitSpec, UserIds};

/// A pipe for the output: (our end, which never blocks; the command's end).
pub(super) fn output_pipe(user: Option<UserIds>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    if let Some(user) = user {
        // Else the command could not open /dev/stdout.
        fchown(&theirs, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
    }
    Ok((ours, theirs))
}

/// Starts the command of `spec`, or says why it cannot be.
pub(super) fn spawn(unit: &Unit, spec: &UnitSpec, output: &OwnedFd) -> Result<ProcessRef, String> {
    let explain = |error: io::Error| {
        let program = spec.command.first().map_or("nothing", String::as_str);
        format!("cannot start {program} in {}: {error}", spec.folder.display())
    };
    let mut command = command(unit, spec, output).map_err(explain)?;
    let child = command.spawn().map_err(explain)?;
    ProcessRef::of(child.id()).ok_or_else(|| "the command ended before it was seen".to_owned())
}

fn command(unit: &Unit, spec: &UnitSpec, output: &OwnedFd) -> io::Result<Command> {
    let (program, args) =
        spec.command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    let mut command = Command::new(program);
    command.args(args).current_dir(&spec.folder).env_clear().envs(&spec.env);
    command.env(MARKER, unit.marker());
    if let Some(port) = spec.port {
        command.env("PORT", port.to_string());
    }
    // Else its standard streams are ours.
    if !spec.streams() {
        command.stdin(OpenOptions::new().read(true).open("/dev/null")?);
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
    }
    if let Some(user) = spec.user {
        // With a uid, the standard library also drops all supplementary groups.
        command.gid(user.gid).uid(user.uid);
    }
    die_with_the_shim(&mut command);
    Ok(command)
}

/// Runs after the change of user, which would clear the death signal again.
#[allow(unsafe_code)]
fn die_with_the_shim(command: &mut Command) {
    let shim = nix::unistd::getpid();
    let prepare = move || {
        setsid()?;
        // The supervisor blocks signals to read them; the command must get its own.
        SigSet::empty().thread_set_mask()?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() == shim { Ok(()) } else { Err(io::Error::from_raw_os_error(nix::libc::ESRCH)) }
    };
    // SAFETY: the closure makes four system calls and allocates nothing, so it is safe between
    // fork and exec.
    unsafe { command.pre_exec(prepare) };
}
