//! A Compose service: every key that is read, and every one that is refused by name.

use crate::config::composition::Dependency;
use crate::config::mistake::Mistakes;
use crate::config::reader::{Any, At, FromNode, Map, foreign_mapping, wrong};
use crate::config::yaml::{Key, Node, Value};

use super::build::Build;
use super::depends::{Depends, On, STARTED};
use super::files::Given;
use super::health::Healthcheck;
use super::limits::{Deploy, Restart, Ulimit};
use super::mounts::{Memory, Volume};
use super::networks::Networks;
use super::pairs::{Hosts, Labels, Pairs};
use super::ports::{Exposed, Ports};
use super::scalars::{Bytes, Count, Cpus, Period, Some1, Text, Truth, Whole, text_of};
use super::words::Command;

foreign_mapping! {
    /// A Compose service.
    Service, "a Compose service" {
        /// Of a backing service, or the tag of what is built.
        "image" image: Option<At<String>>,
        /// Makes it a service of ours.
        "build" build: Option<At<Build>>,
        "environment" environment: Option<Pairs>,
        "env_file" env_file: Option<Some1<VariableFile>>,
        "depends_on" depends_on: Option<Depends>,
        /// Refused: what it stands for is not known.
        "extends" extends: Option<At<Any>>,
        "links" links: Option<At<Vec<At<Text>>>>,
        "deploy" deploy: Option<Deploy>,
        "scale" scale: Option<At<Count>>,
        "profiles" profiles: Option<At<Vec<Text>>>,
        /// Between the stop signal and SIGKILL.
        "stop_grace_period" stop_grace_period: Option<At<Period>>,
        "stop_signal" stop_signal: Option<At<Text>>,
        "command" command: Option<At<Command>>,
        "entrypoint" entrypoint: Option<At<Command>>,
        "working_dir" working_dir: Option<At<Text>>,
        "user" user: Option<At<Text>>,
        "hostname" hostname: Option<At<Text>>,
        "container_name" container_name: Option<At<Text>>,
        "healthcheck" healthcheck: Option<At<Healthcheck>>,
        "restart" restart: Option<At<Restart>>,
        "ports" ports: Option<At<Vec<Ports>>>,
        "expose" expose: Option<At<Vec<Exposed>>>,
        "volumes" volumes: Option<At<Vec<At<Volume>>>>,
        "tmpfs" tmpfs: Option<At<Some1<Memory>>>,
        "secrets" secrets: Option<At<Vec<Given>>>,
        "configs" configs: Option<At<Vec<Given>>>,
        "networks" networks: Option<At<Networks>>,
        "read_only" read_only: Option<At<Truth>>,
        "init" init: Option<At<Truth>>,
        "tty" tty: Option<At<Truth>>,
        "stdin_open" stdin_open: Option<At<Truth>>,
        "cap_add" cap_add: Option<At<Vec<Text>>>,
        "cap_drop" cap_drop: Option<At<Vec<Text>>>,
        "security_opt" security_opt: Option<At<Vec<At<Text>>>>,
        "sysctls" sysctls: Option<At<Pairs>>,
        "ulimits" ulimits: Option<At<Map<Ulimit>>>,
        "extra_hosts" extra_hosts: Option<At<Hosts>>,
        "group_add" group_add: Option<At<Vec<Text>>>,
        "shm_size" shm_size: Option<At<Bytes>>,
        "labels" labels: Option<At<Labels>>,
        "cpus" cpus: Option<At<Cpus>>,
        "mem_limit" mem_limit: Option<At<Bytes>>,
        "mem_reservation" mem_reservation: Option<At<Bytes>>,
        "pids_limit" pids_limit: Option<At<Whole>>,
        "logging" logging: Option<At<Logging>>,
        "pull_policy" pull_policy: Option<At<Text>>,
        // Said to `docker compose watch` and to the terminal of `docker compose up` only.
        "develop" develop: Option<Any>,
        "attach" attach: Option<Any>,
    }
    allow { "x-" }
    refuse {
        "network_mode" => "remove it and publish `ports`: services find each other by name",
        "external_links" => "remove it, and put both services into one network",
        "dns" => "remove it: names are resolved by the engine",
        "dns_opt" => "remove it: names are resolved by the engine",
        "dns_search" => "remove it: names are resolved by the engine",
        "domainname" => "write the whole name as `hostname`",
        "mac_address" => "remove it",
        "privileged" => "name what it needs in `cap_add`",
        "devices" => "remove it: devices of the machine are not given to containers",
        "device_cgroup_rules" => "remove it: devices of the machine are not given to containers",
        "gpus" => "remove it: devices of the machine are not given to containers",
        "runtime" => "remove it: containers run with the engine's own runtime",
        "platform" => "remove it: images are built and pulled for this machine",
        "isolation" => "remove it",
        "pid" => "remove it",
        "ipc" => "remove it; for more shared memory write `shm_size`",
        "uts" => "remove it",
        "userns_mode" => "remove it",
        "cgroup" => "remove it",
        "cgroup_parent" => "remove it",
        "credential_spec" => "remove it",
        "cpu_count" => "write `cpus`",
        "cpu_percent" => "write `cpus`",
        "cpu_period" => "write `cpus`",
        "cpu_quota" => "write `cpus`",
        "cpu_rt_period" => "write `cpus`",
        "cpu_rt_runtime" => "write `cpus`",
        "cpu_shares" => "write `cpus`",
        "cpuset" => "write `cpus`",
        "blkio_config" => "remove it",
        "memswap_limit" => "write `mem_limit` alone: as much swap is allowed as memory",
        "mem_swappiness" => "remove it",
        "oom_kill_disable" => "remove it, and write a larger `mem_limit`",
        "oom_score_adj" => "remove it",
        "storage_opt" => "remove it",
        "volumes_from" => "mount the same named volume in both services",
        "volume_driver" => "remove it: volumes are on this machine",
        "annotations" => "write them as `labels`",
        "label_file" => "write them into `labels`",
        "use_api_socket" => "remove it",
        "post_start" => "do it in the container's own command",
        "pre_stop" => "remove it: handle the stop signal in the service",
        "provider" => "remove it",
        "models" => "remove it",
    }
}

impl Service {
    /// How many run side by side, if the file says so.
    pub fn replicas(&self) -> Option<u32> {
        let deploy = self.deploy.as_ref().and_then(|deploy| deploy.replicas.as_ref());
        deploy.or(self.scale.as_ref()).map(|at| at.value.0)
    }

    /// What it waits for; one that it is linked to has to be started before, as in Compose.
    pub fn waits_for(&self) -> Vec<On> {
        let mut all: Vec<On> =
            self.depends_on.iter().flat_map(|depends| depends.0.clone()).collect();
        for link in self.links.iter().flat_map(|links| &links.value) {
            let name = link.value.0.split(':').next().unwrap_or_default();
            if !all.iter().any(|on| on.name.value == name) {
                let name = At { value: name.to_owned(), extent: link.extent, title: link.title };
                let dependency = Dependency { restart: true, ..STARTED };
                all.push(On { condition: link.extent, name, dependency });
            }
        }
        all
    }

    /// Notes keys that are read and do not say what is supported.
    pub(super) fn check(&self, key: &Key, mistakes: &mut Mistakes<'_>) {
        if let Some(extends) = &self.extends {
            let help = "write the keys of the other service into this one, or share them with a YAML anchor";
            mistakes.add(extends.title, "`extends` is not supported yet by this version", help);
        }
        for link in self.links.iter().flat_map(|links| &links.value) {
            if let Some((name, alias)) = link.value.0.split_once(':')
                && name != alias
            {
                let message = format!("the link `{}` gives `{name}` another name", link.value.0);
                let help = format!(
                    "write `networks: {{ default: {{ aliases: [{alias}] }} }}` at `{name}`"
                );
                mistakes.add(link.extent, message, help);
            }
        }
        if let Some(mode) = self.deploy.as_ref().and_then(|deploy| deploy.mode.as_ref())
            && mode.value.0 != "replicated"
        {
            let message = format!("`mode: {}` is not supported", mode.value.0);
            mistakes.add(mode.extent, message, "remove it and write `replicas`");
        }
        let replicas = self.deploy.as_ref().and_then(|deploy| deploy.replicas.as_ref());
        if let (Some(scale), Some(replicas)) = (&self.scale, replicas)
            && scale.value != replicas.value
        {
            let message = format!("`{}` has two numbers of replicas", key.text);
            mistakes.add(scale.title, message, "remove `scale`");
        }
        if let Some(policy) = &self.pull_policy
            && !["missing", "if_not_present", "build"].contains(&policy.value.0.as_str())
            && !(policy.value.0 == "never" && self.build.is_some())
        {
            let message = format!("`pull_policy: {}` is not supported", policy.value.0);
            mistakes.add(
                policy.extent,
                message,
                "remove it: an image is pulled if it is not there",
            );
        }
    }
}

/// An entry of `env_file`: a path, or in full.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct VariableFile {
    pub path: At<String>,
    pub required: bool,
    pub raw: bool,
}

foreign_mapping! {
    /// In full.
    LongFile, "an entry of `env_file`" {
        "path" path: At<String>,
        "required" required: Option<Truth>,
        "format" format: Option<At<Text>>,
    }
}

impl FromNode for VariableFile {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if text_of(node).is_some() {
            return At::read(node, mistakes).map(|path| Self { path, required: true, raw: false });
        }
        let read = LongFile::read(node, mistakes)?;
        if let Some(format) = read.format.as_ref().filter(|format| format.value.0 != "raw") {
            let message = format!("there is no format `{}` of variables", format.value.0);
            mistakes.add(format.extent, message, "write `raw`, or leave it out");
        }
        let required = read.required.is_none_or(|truth| truth.0);
        Some(Self { path: read.path, required, raw: read.format.is_some() })
    }
}

/// `logging`: only where the engine can still show the logs.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Logging;

impl FromNode for Logging {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            wrong(node, mistakes, "a mapping", "write `driver: json-file`, or remove it");
            return None;
        };
        let driver = entries.iter().find(|(key, _)| key.text == "driver").map(|(_, node)| node);
        match driver.map(|node| (node, text_of(node).unwrap_or_default())) {
            None => Some(Self),
            Some((_, driver)) if ["json-file", "local"].contains(&driver.as_str()) => Some(Self),
            Some((node, driver)) => {
                let message = format!("the logging driver `{driver}` is not supported");
                let help = "remove it: `launchway logs` has the logs of every replica";
                mistakes.add(node.extent, message, help);
                None
            }
        }
    }
}
