//! From the keys of a service to the container that an engine is asked for.

use std::collections::BTreeMap;

use crate::config::env_file::Lookup;
use crate::config::mistake::Mistakes;
use crate::config::reader::{At, Map};
use crate::config::yaml::Key;
use crate::container::{Container, Mount};

use super::Service;
use super::files::{self, Files, What};
use super::limits::{self, Older};
use super::pairs::Pairs;
use super::scalars::{Text, Truth};

/// The container of a service whose variables are filled in.
pub(in crate::config) fn container(
    key: &Key,
    service: &Service,
    files: &Files,
    lookup: Lookup<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Container {
    let is = |at: &Option<At<Truth>>| at.as_ref().is_some_and(|at| at.value.0);
    let text = |at: &Option<At<Text>>| {
        at.as_ref().map(|at| at.value.0.clone()).filter(|text| !text.is_empty())
    };
    let ulimits = service.ulimits.as_ref().map(|at| &at.value);
    if let Some(ulimits) = ulimits {
        limits::check_ulimits(ulimits, mistakes);
    }
    let older = Older {
        cpus: service.cpus.as_ref().map(|at| at.value),
        memory: service.mem_limit.as_ref().map(|at| at.value),
        reservation: service.mem_reservation.as_ref().map(|at| at.value),
        pids: service.pids_limit.as_ref().map(|at| at.value),
    };
    Container {
        command: service.command.as_ref().and_then(|at| at.value.0.clone()),
        entrypoint: service.entrypoint.as_ref().and_then(|at| at.value.0.clone()),
        ports: service.ports.iter().flat_map(|at| &at.value).flat_map(|p| p.0.clone()).collect(),
        expose: service.expose.iter().flat_map(|at| &at.value).flat_map(|p| p.0.clone()).collect(),
        answers_at: None,
        mounts: mounts(key, service, files, lookup, mistakes),
        healthcheck: service.healthcheck.as_ref().map(|at| at.value.0.clone()),
        restart: limits::restart(service.restart.as_ref(), service.deploy.as_ref(), mistakes),
        stop_signal: text(&service.stop_signal),
        user: text(&service.user),
        working_dir: text(&service.working_dir),
        hostname: text(&service.hostname),
        read_only: is(&service.read_only),
        init: is(&service.init),
        tty: is(&service.tty),
        stdin_open: is(&service.stdin_open),
        cap_add: texts(&service.cap_add),
        cap_drop: texts(&service.cap_drop),
        security_opt: security(service, mistakes),
        sysctls: pairs(service.sysctls.as_ref().map(|at| &at.value)),
        extra_hosts: service.extra_hosts.clone().map(|at| at.value.0).unwrap_or_default(),
        group_add: texts(&service.group_add),
        shm_size: service.shm_size.as_ref().map(|at| at.value.0),
        ulimits: ulimits
            .into_iter()
            .flat_map(Map::iter)
            .map(|(key, limit)| (key.text.clone(), limit.0))
            .collect(),
        networks: networks(service, mistakes),
        labels: service.labels.clone().map(|at| at.value.0).unwrap_or_default(),
        limits: limits::limits(service.deploy.as_ref(), older),
    }
}

fn texts(list: &Option<At<Vec<Text>>>) -> Vec<String> {
    list.iter().flat_map(|at| &at.value).map(|text| text.0.clone()).collect()
}

/// Names and values; a name without a value has an empty one.
fn pairs(pairs: Option<&Pairs>) -> BTreeMap<String, String> {
    let pairs = pairs.into_iter().flat_map(|pairs| &pairs.0);
    pairs.map(|(key, at)| (key.text.clone(), at.value.clone().unwrap_or_default())).collect()
}

fn mounts(
    key: &Key,
    service: &Service,
    files: &Files,
    lookup: Lookup<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<Mount> {
    let volumes = service.volumes.iter().flat_map(|at| &at.value);
    let mut mounts: Vec<Mount> = volumes.map(|at| at.value.mount.clone()).collect();
    let memory = service.tmpfs.iter().flat_map(|at| &at.value.0);
    mounts.extend(memory.map(|memory| memory.0.clone()));
    let mut given = |what: What, given, defined| {
        mounts.extend(files::mounts(what, given, defined, lookup, mistakes));
    };
    given(What::Secret, service.secrets.as_ref().map(|at| &at.value), &files.secrets);
    given(What::Config, service.configs.as_ref().map(|at| &at.value), &files.configs);
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    for mount in &mounts {
        if seen.insert(&mount.target, ()).is_some() {
            let place = service.volumes.as_ref().map_or(key.extent, |at| at.title);
            let message = format!("two things are mounted at `{}` in `{}`", mount.target, key.text);
            mistakes.add(place, message, "keep one of them");
        }
    }
    mounts
}

fn security(service: &Service, mistakes: &mut Mistakes<'_>) -> Vec<String> {
    let options = service.security_opt.iter().flat_map(|at| &at.value);
    for option in options.clone() {
        let text = &option.value.0;
        let file = text
            .strip_prefix("seccomp")
            .filter(|rest| !["=unconfined", ":unconfined"].contains(rest));
        if file.is_some() {
            let message = format!("`{text}` names a profile in a file, which is not supported");
            mistakes.add(option.extent, message, "remove it: the engine's own profile holds");
        }
    }
    options.map(|option| option.value.0.clone()).collect()
}

fn networks(
    service: &Service,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<String, crate::container::Attachment> {
    let all = service.networks.iter().flat_map(|at| &at.value.0);
    let mut networks = BTreeMap::new();
    for (key, attachment) in all {
        if networks.insert(key.text.clone(), attachment.clone()).is_some() {
            let message = format!("the network `{}` is here a second time", key.text);
            mistakes.add(key.extent, message, "keep one of them");
        }
    }
    networks
}
