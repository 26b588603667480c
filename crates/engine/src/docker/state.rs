//! What the Engine's words for a container's state mean.

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, HealthStatusEnum,
};
use domain::Timestamp;
use domain::slot::Exit;

/// Whether it runs, and if not, what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Life {
    /// Made, and never started.
    Created,
    /// With the pid of its first process on the Engine's machine.
    Running { pid: Option<u32> },
    /// Ended; the Engine starts it again by itself if `again`.
    Ended { exit: Exit, again: bool },
}

pub(super) fn life(found: &ContainerInspectResponse) -> Life {
    let Some(state) = &found.state else { return Life::Created };
    match state.status {
        Some(Status::CREATED) | None => Life::Created,
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => {
            let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
            Life::Running { pid }
        }
        Some(status) => Life::Ended {
            exit: exit(found, state),
            again: status == Status::RESTARTING || status == Status::REMOVING,
        },
    }
}

fn exit(found: &ContainerInspectResponse, state: &ContainerState) -> Exit {
    if state.oom_killed == Some(true) {
        let limit = found.host_config.as_ref().and_then(|host| host.memory);
        let limit = limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        return Exit::OutOfMemory { limit };
    }
    state.exit_code.map_or(Exit::Unknown, exit_of)
}

/// The Engine tells a signal as shells do: 128 and its number.
pub(super) fn exit_of(code: i64) -> Exit {
    match code {
        129..=159 => Exit::Signal(code as i32 - 128),
        code => i32::try_from(code).map_or(Exit::Unknown, Exit::Code),
    }
}

/// What the container's own health check says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// It has none.
    None,
    /// The Engine has not made up its mind.
    Starting,
    Healthy,
    Unhealthy {
        answer: String,
    },
}

pub(super) fn health(found: &ContainerInspectResponse) -> Health {
    let health = found.state.as_ref().and_then(|state| state.health.as_ref());
    let Some(health) = health else { return Health::None };
    match health.status {
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::UNHEALTHY) => {
            let last = health.log.as_ref().and_then(|log| log.last());
            let code = last.and_then(|last| last.exit_code).unwrap_or(-1);
            let output = last.and_then(|last| last.output.as_deref()).unwrap_or_default();
            Health::Unhealthy { answer: answer(exit_of(code), output) }
        }
        _ => Health::None,
    }
}

/// How a health check ended, and the last of what it said.
pub(super) fn answer(exit: Exit, output: &str) -> String {
    const MOST: usize = 500;
    let output = output.trim();
    let cut = output.len().saturating_sub(MOST);
    let start = (cut..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(0);
    match &output[start..] {
        "" => exit.to_string(),
        said => format!("{exit}: {said}"),
    }
}

/// The test of the container's health check, as a command.
pub(super) fn test_of(found: &ContainerInspectResponse) -> Option<Vec<String>> {
    let test = found.config.as_ref()?.healthcheck.as_ref()?.test.as_ref()?;
    match test.split_first()? {
        (kind, command) if kind == "CMD" => Some(command.to_vec()),
        (kind, [line, ..]) if kind == "CMD-SHELL" => {
            Some(vec!["/bin/sh".into(), "-c".into(), line.clone()])
        }
        _ => None,
    }
}

/// Times of the Engine: RFC 3339 in UTC, with nanoseconds; year 1 where there is none.
pub(super) fn time(text: Option<&str>) -> Option<Timestamp> {
    let time: Timestamp = serde_json::from_value(serde_json::json!(text?)).ok()?;
    (time.as_millis() > 0).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_above_128_is_a_signal() {
        assert_eq!(
            [0, 3, 143, 137, 255].map(exit_of),
            [Exit::Code(0), Exit::Code(3), Exit::Signal(15), Exit::Signal(9), Exit::Code(255)]
        );
    }

    #[test]
    fn times_of_the_engine_are_read() {
        let time = |text| time(Some(text)).map(Timestamp::as_millis);
        assert_eq!(time("1970-01-01T00:00:01.250999999Z"), Some(1250));
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_long_answer_is_cut_at_its_start() {
        let long = "é".repeat(400);
        let said = answer(Exit::Code(1), &long);
        assert!(said.len() < 600 && said.starts_with("exit status 1: é"), "{said}");
        assert_eq!(answer(Exit::Code(1), " \n"), "exit status 1");
    }
}
