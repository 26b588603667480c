//! Until a service is what another one waits for.

use std::time::{Duration, Instant};

use domain::ServiceName;
use domain::config::Condition;
use engine::docker::project::{Health, Look, Phase, ProjectEngine};

use super::Running;

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Of a container that failed, in the reason.
const LAST_LINES: usize = 20;

/// What there is to say of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Met,
    /// Why not.
    NotYet(String),
    Never(String),
}

/// Returns when all containers of `service` meet the condition; else the reason why they do not.
pub(super) async fn until(
    engine: &ProjectEngine,
    service: &ServiceName,
    containers: &[Running],
    condition: Condition,
    limit: Duration,
) -> Result<(), String> {
    let began = Instant::now();
    for container in containers {
        loop {
            let look = engine.look(&container.id).await.map_err(|error| error.to_string())?;
            let why = match judged(look.as_ref(), condition) {
                State::Met => break,
                State::NotYet(why) if began.elapsed() < limit => {
                    drop(why);
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                    continue;
                }
                State::NotYet(why) => format!("{why}, after {} s", limit.as_secs()),
                State::Never(why) => why,
            };
            let lines = engine.tail(&container.id, LAST_LINES).await.unwrap_or_default();
            let said = match lines.is_empty() {
                true => String::new(),
                false => format!("; it wrote last:\n    {}", lines.join("\n    ")),
            };
            return Err(format!("{service} ({}) {why}{said}", container.name));
        }
    }
    Ok(())
}

fn judged(look: Option<&Look>, condition: Condition) -> State {
    let Some(look) = look else { return State::Never("was removed".into()) };
    match condition {
        Condition::ServiceStarted => State::Met,
        Condition::ServiceHealthy => healthy(look),
        Condition::ServiceCompletedSuccessfully => match look.phase {
            Phase::Exited(0) => State::Met,
            Phase::Exited(_) => State::Never(ended(look)),
            _ => State::NotYet("has not ended yet".into()),
        },
    }
}

fn healthy(look: &Look) -> State {
    let probe = match look.probe.is_empty() {
        true => String::new(),
        false => format!(": its probe says `{}`", look.probe),
    };
    match (look.phase, look.health) {
        (Phase::Exited(_), _) => State::Never(ended(look)),
        (Phase::Running, Health::Healthy) => State::Met,
        (Phase::Running, Health::Unhealthy) => State::Never(format!("is unhealthy{probe}")),
        (Phase::Running, Health::Unchecked) => {
            State::Never("has no health check, so it is never healthy; add a `healthcheck`".into())
        }
        (Phase::Restarting, _) => State::NotYet("ends and is started again".into()),
        _ => State::NotYet(format!("is not healthy yet{probe}")),
    }
}

fn ended(look: &Look) -> String {
    match look.phase {
        Phase::Exited(_) if look.out_of_memory => "was killed for lack of memory".into(),
        Phase::Exited(code) => format!("ended with exit status {code}"),
        _ => "has ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(phase: Phase, health: Health) -> Look {
        Look { phase, health, probe: "refused".into(), out_of_memory: false, ports: Vec::new() }
    }

    #[test]
    fn a_healthy_service_is_one_that_runs_and_says_so() {
        let judge = |phase, health| judged(Some(&look(phase, health)), Condition::ServiceHealthy);
        assert_eq!(judge(Phase::Running, Health::Healthy), State::Met);
        assert!(
            matches!(judge(Phase::Running, Health::Starting), State::NotYet(why) if why.contains("refused"))
        );
        assert!(
            matches!(judge(Phase::Running, Health::Unhealthy), State::Never(why) if why.contains("refused"))
        );
        assert!(matches!(judge(Phase::Running, Health::Unchecked), State::Never(_)));
        assert!(matches!(judge(Phase::Exited(0), Health::Healthy), State::Never(_)));
    }

    #[test]
    fn a_job_that_failed_never_completes() {
        let judge = |phase| {
            judged(Some(&look(phase, Health::Unchecked)), Condition::ServiceCompletedSuccessfully)
        };
        assert_eq!(judge(Phase::Exited(0)), State::Met);
        assert_eq!(judge(Phase::Exited(3)), State::Never("ended with exit status 3".into()));
        assert!(matches!(judge(Phase::Running), State::NotYet(_)));
        assert!(matches!(judged(None, Condition::ServiceStarted), State::Never(_)));
    }
}
