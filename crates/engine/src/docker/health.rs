//! Readiness of a running container: the service's probe from outside, and the container's own health check.
//!
//! ```text
//! probe of the service     health check of the container     ready
//! GET path                 none, starting, healthy           when the probe is answered
//! a TCP connection         none                              when it is accepted
//! a TCP connection         starting                          when the same check succeeds, asked by us
//! any                      unhealthy                         no
//! ```
//! A path says more than a connection, so it need not wait for the Engine's first interval. Nor does a connection:
//! while the Engine has not made up its mind, we run its check ourselves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::models::ContainerInspectResponse;
use domain::Timestamp;
use domain::slot::{Ends, Exit, HealthCheck, Probe, ProbeRecord, ReplicaState};

use super::DockerEngine;
use super::ended::Ended;
use super::state::{self, Health};
use crate::probe;
use crate::process::now;
use crate::readiness::Readiness;

/// Between two of the container's own checks that we ask.
const PATIENCE: Duration = Duration::from_millis(250);
/// For one of them, where the file says nothing.
const ASK_WITHIN: Duration = Duration::from_secs(30);

/// What was seen of each container; may be lost at any time.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: Mutex<HashMap<String, Seen>>,
    ended: Mutex<HashMap<String, Ended>>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// One life of the container.
    started: Option<String>,
    probes: Readiness,
    /// The container's check succeeded when we asked it.
    passed: bool,
    asked: Option<Instant>,
}

impl Memory {
    fn recall(&self, id: &str, started: Option<String>) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(id).filter(|seen| seen.started == started);
        known.cloned().unwrap_or_else(|| Seen { started, ..Seen::default() })
    }

    fn keep(&self, id: &str, known: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(id.to_owned(), known);
    }

    /// Keeps what is about these containers only, if there is much.
    pub(super) fn trim(&self, living: &[&str]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > 500 {
            seen.retain(|id, _| living.contains(&id.as_str()));
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() > 500 {
            ended.retain(|id, _| living.contains(&id.as_str()));
        }
    }

    /// How a container ended, as the Engine tells it now and told it before; `seen` if it is ended just now.
    pub(super) fn ends(
        &self,
        found: &ContainerInspectResponse,
        restarts: u32,
        seen: Option<(Exit, Option<String>)>,
        now: Timestamp,
    ) -> Option<Ends> {
        let id = found.id.clone().unwrap_or_default();
        let mut all = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(id).or_default().look(found, restarts, seen, now)
    }
}

impl DockerEngine {
    pub(super) async fn readiness(
        &self,
        found: &ContainerInspectResponse,
        address: SocketAddr,
        check: &HealthCheck,
    ) -> ReplicaState {
        let id = found.id.as_deref().unwrap_or_default();
        let started = found.state.as_ref().and_then(|state| state.started_at.clone());
        let mut seen = self.memory.recall(id, started);
        let refused = match state::health(found) {
            Health::Unhealthy { answer } => Some(own_check(answer, false)),
            _ => None,
        };
        if refused.is_some() || !seen.probes.fresh(check.interval) {
            let mut probed = probe::probe(address, check).await;
            // Docker's proxy accepts for a container that does not listen yet.
            if probed.ok
                && check.probe == Probe::Tcp
                && address.ip().is_loopback()
                && let Err(why) = super::backing::accepts(address).await
            {
                (probed.ok, probed.answer) = (false, why);
            }
            let answered = probed.ok;
            seen.probes.note(probed);
            let own = match refused {
                Some(refused) => Some(refused),
                None if answered && check.probe == Probe::Tcp => {
                    self.ask(found, id, &mut seen).await
                }
                None => None,
            };
            let ready = answered && own.as_ref().is_none_or(|own| own.ok);
            own.into_iter().for_each(|own| seen.probes.note(own));
            seen.probes.settle(ready);
            self.memory.keep(id, seen.clone());
        }
        seen.probes.state()
    }

    /// Runs the container's check while the Engine has not made up its mind; `None` if nothing stands in the way.
    async fn ask(
        &self,
        found: &ContainerInspectResponse,
        id: &str,
        seen: &mut Seen,
    ) -> Option<ProbeRecord> {
        if seen.passed || state::health(found) != Health::Starting {
            return None;
        }
        if seen.asked.is_some_and(|asked| asked.elapsed() < PATIENCE) {
            return Some(own_check("not asked again yet".into(), false));
        }
        let record = self.own_check(found, id).await?;
        seen.asked = Some(Instant::now());
        seen.passed = record.ok;
        Some(record)
    }

    /// One run of the container's check by us; `None` if it has none that we could run.
    pub(super) async fn own_check(
        &self,
        found: &ContainerInspectResponse,
        id: &str,
    ) -> Option<ProbeRecord> {
        let command = state::test_of(found)?;
        let asked = tokio::time::timeout(ASK_WITHIN, self.ask_inside(id, &command)).await;
        Some(match asked {
            Ok(Ok((exit, said))) => own_check(state::answer(exit, &said), exit.success()),
            Ok(Err(trouble)) => own_check(trouble.to_string(), false),
            Err(_) => own_check(format!("no answer within {ASK_WITHIN:?}"), false),
        })
    }
}

fn own_check(answer: String, ok: bool) -> ProbeRecord {
    ProbeRecord { at: now(), request: "the container's healthcheck".into(), answer, ok }
}
