//! What a container may use: `deploy.resources`, the older `mem_limit` and `cpus`, `ulimits`; and `restart`.

use crate::config::mistake::Mistakes;
use crate::config::reader::{Any, At, FromNode, Map, foreign_mapping};
use crate::config::yaml::{Node, Value};
use crate::container::{self, Limits};

use super::scalars::{Bytes, Count, Cpus, Text, Whole, text_of, wrong_value};

foreign_mapping! {
    /// Compose's `deploy`.
    Deploy, "`deploy`" {
        /// How many run side by side.
        "replicas" replicas: Option<At<Count>>,
        "resources" resources: Option<At<Resources>>,
        "restart_policy" restart_policy: Option<At<Policy>>,
        "mode" mode: Option<At<Text>>,
    }
    allow { "labels", "update_config", "rollback_config", "x-" }
    refuse {
        "placement" => "remove it: everything runs on one machine",
        "endpoint_mode" => "remove it",
    }
}

foreign_mapping! {
    /// `deploy.resources`.
    Resources, "`resources`" {
        "limits" limits: Option<Limited>,
        "reservations" reservations: Option<Reserved>,
    }
    allow { "x-" }
}

foreign_mapping! {
    /// What it may use at most.
    Limited, "`limits`" {
        "cpus" cpus: Option<At<Cpus>>,
        "memory" memory: Option<At<Bytes>>,
        "pids" pids: Option<At<Whole>>,
    }
    allow { "x-" }
}

foreign_mapping! {
    /// What is kept for it. Docker keeps no CPUs for anybody, with Compose neither.
    Reserved, "`reservations`" {
        "cpus" cpus: Option<At<Cpus>>,
        "memory" memory: Option<At<Bytes>>,
    }
    allow { "x-" }
    refuse {
        "devices" => "remove it: GPUs and other devices are not given to containers",
        "generic_resources" => "remove it",
    }
}

foreign_mapping! {
    /// `deploy.restart_policy`; Compose does not look at its times.
    Policy, "`restart_policy`" {
        "condition" condition: Option<At<Text>>,
        "max_attempts" max_attempts: Option<At<Count>>,
        "delay" delay: Option<Any>,
        "window" window: Option<Any>,
    }
    allow { "x-" }
}

/// The older keys of a service that say the same.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Older {
    pub cpus: Option<Cpus>,
    pub memory: Option<Bytes>,
    pub reservation: Option<Bytes>,
    pub pids: Option<Whole>,
}

/// Both together; `deploy` goes before, as in Compose.
pub(super) fn limits(deploy: Option<&Deploy>, older: Older) -> Limits {
    let resources = deploy.and_then(|deploy| Some(&deploy.resources.as_ref()?.value));
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let reserved = resources.and_then(|resources| resources.reservations.as_ref());
    let cpus = limits.and_then(|limits| Some(limits.cpus.as_ref()?.value)).or(older.cpus);
    let memory = limits.and_then(|limits| Some(limits.memory.as_ref()?.value)).or(older.memory);
    let pids = limits.and_then(|limits| Some(limits.pids.as_ref()?.value)).or(older.pids);
    let reservation = reserved.and_then(|reserved| Some(reserved.memory.as_ref()?.value));
    let some = |size: Bytes| (size.0.0 > 0).then_some(size.0);
    Limits {
        cpu_millis: cpus.map(|cpus| cpus.0).filter(|millis| *millis > 0),
        memory: memory.and_then(some),
        memory_reservation: reservation.or(older.reservation).and_then(some),
        pids: pids.map(|pids| pids.0).filter(|pids| *pids != 0),
    }
}

/// `restart`, or what `deploy.restart_policy` says instead.
pub(super) fn restart(
    restart: Option<&At<Restart>>,
    deploy: Option<&Deploy>,
    mistakes: &mut Mistakes<'_>,
) -> container::Restart {
    let policy = deploy.and_then(|deploy| deploy.restart_policy.as_ref());
    let Some(policy) = policy else { return restart.map(|at| at.value.0).unwrap_or_default() };
    let most = policy.value.max_attempts.as_ref().map(|at| at.value.0);
    match policy.value.condition.as_ref().map(|at| (at.value.0.as_str(), at.extent)) {
        None | Some(("any", _)) => container::Restart::UnlessStopped,
        Some(("none", _)) => container::Restart::No,
        Some(("on-failure", _)) => container::Restart::OnFailure { most },
        Some((other, extent)) => {
            let message = format!("`condition` cannot be `{other}`");
            mistakes.add(extent, message, "write `none`, `on-failure` or `any`");
            container::Restart::No
        }
    }
}

/// `restart: unless-stopped`, `restart: on-failure:3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Restart(pub container::Restart);

impl FromNode for Restart {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let text = text_of(node).unwrap_or_default();
        let (word, most) = match text.split_once(':') {
            Some((word, most)) => (word, most.parse().ok()),
            None => (text.as_str(), None),
        };
        let restart = match (word, text.contains(':'), most) {
            ("no" | "", false, _) if text_of(node).is_some() => container::Restart::No,
            ("always", false, _) => container::Restart::Always,
            ("unless-stopped", false, _) => container::Restart::UnlessStopped,
            ("on-failure", false, _) => container::Restart::OnFailure { most: None },
            ("on-failure", true, Some(most)) => container::Restart::OnFailure { most: Some(most) },
            _ => {
                let help =
                    "write `\"no\"`, `always`, `on-failure`, `on-failure:3` or `unless-stopped`";
                wrong_value(node, mistakes, "when the container is started again", help);
                return None;
            }
        };
        Some(Self(restart))
    }
}

/// One of `ulimits`: a number, or `soft` and `hard`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::config) struct Ulimit(pub container::Ulimit);

foreign_mapping! {
    /// The two limits of a resource.
    Both, "a limit" {
        "soft" soft: Whole,
        "hard" hard: Whole,
    }
    allow { "x-" }
}

impl FromNode for Ulimit {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let (soft, hard) = match node.value {
            Value::Map(_) => {
                let both = Both::read(node, mistakes)?;
                (both.soft.0, both.hard.0)
            }
            _ => Whole::read(node, mistakes).map(|both| (both.0, both.0))?,
        };
        if hard >= 0 && (soft > hard || soft < 0) {
            mistakes.add(
                node.extent,
                "the soft limit is above the hard one",
                "exchange them, or correct one",
            );
            return None;
        }
        Some(Self(container::Ulimit { soft, hard }))
    }
}

/// The resources of `getrlimit(2)` that Docker knows.
const RESOURCES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Every name is one of a resource.
pub(super) fn check_ulimits(map: &Map<Ulimit>, mistakes: &mut Mistakes<'_>) {
    for (key, _) in &map.0 {
        if !RESOURCES.contains(&key.text.as_str()) {
            let message = format!("there is no resource `{}` to limit", key.text);
            let help = crate::config::mistake::did_you_mean(&key.text, RESOURCES, || {
                format!("they are {}", crate::config::mistake::listed(RESOURCES))
            });
            mistakes.add(key.extent, message, help);
        }
    }
}
