//! What real Compose makes of the same files (`docker compose config`), in the words of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use domain::config::{ComposedService, Composition, EnvFile, SecretSource};
use domain::container::{Container, Mount, Protocol, Restart, Source};
use serde_json::{Map, Value, json};

use super::HOME;

/// The program of Compose; `None`, and one loud line, where it cannot be had.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(find).as_deref()
}

fn find() -> Option<std::path::PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev/compose");
    let output = Command::new(script).output().expect("dev/compose can be started");
    if output.status.success() {
        let folder = String::from_utf8(output.stdout).expect("a path");
        return Some(Path::new(folder.trim()).join("docker-compose"));
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "dev/compose has no Compose: {why}");
    println!("SKIPPED: no Docker Compose to compare with: {why}");
    None
}

/// What Compose reads in a folder, or why it refuses.
pub fn config(program: &Path, fixture: &Path) -> Result<Value, String> {
    let output = Command::new(program)
        .args(["config", "--format", "json", "--no-env-resolution"])
        .current_dir(fixture)
        .env_clear()
        .envs([("HOME", HOME), ("PATH", "/usr/bin:/bin")])
        .output()
        .expect("Compose can be started");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(unescaped(serde_json::from_slice(&output.stdout).expect("JSON")))
}

/// Its output could be read again as a file, so a dollar sign is doubled.
fn unescaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace("$$", "$")),
        Value::Array(items) => items.into_iter().map(unescaped).collect(),
        Value::Object(entries) => {
            Value::Object(entries.into_iter().map(|(key, value)| (key, unescaped(value))).collect())
        }
        other => other,
    }
}

/// Each service as both sides should see it: theirs.
pub fn theirs(config: &Value) -> BTreeMap<String, Value> {
    let services = config["services"].as_object().expect("services");
    services.iter().map(|(name, service)| (name.clone(), their_service(service, config))).collect()
}

/// Where secrets are.
const SECRETS: &str = "/run/secrets/";

/// Keys that have no part in what is compared: notes of ours say so.
const WITHOUT_EFFECT: [&str; 5] = ["develop", "logging", "pull_policy", "profiles", "links"];

fn their_service(service: &Value, config: &Value) -> Value {
    let mut all = Map::new();
    for (key, value) in service.as_object().expect("a service") {
        let key = key.as_str();
        let compared = match key {
            _ if WITHOUT_EFFECT.contains(&key) || value.is_null() => continue,
            "ports" => each(value, their_port),
            "volumes" => sorted(each(value, their_volume)),
            "tmpfs" => {
                let memory =
                    each(value, |text| json!(["memory", text.as_str().unwrap().split(':').next()]));
                merge(&mut all, "volumes", memory);
                continue;
            }
            "secrets" | "configs" => {
                let folder = if key == "secrets" { SECRETS } else { "/" };
                merge(
                    &mut all,
                    "volumes",
                    each(value, |given| their_file(given, &config[key], folder)),
                );
                continue;
            }
            "healthcheck" => their_healthcheck(value),
            "stop_grace_period" => json!(millis(value)),
            "shm_size" => json!(number(value)),
            "mem_limit" => json!({ "memory": number(value) }),
            "deploy" => their_deploy(value, &mut all),
            "scale" => {
                all.insert("replicas".into(), value.clone());
                continue;
            }
            "build" => their_build(value, config),
            "ulimits" => their_ulimits(value),
            "networks" => their_networks(value),
            "env_file" => each(value, |file| {
                json!([
                    file["path"],
                    file["required"].as_bool().unwrap_or(true),
                    file["format"] == "raw"
                ])
            }),
            "extra_hosts" => {
                sorted(each(value, |host| json!(host.as_str().unwrap().replacen('=', ":", 1))))
            }
            "depends_on" => their_depends(value),
            "environment" => without_null(value),
            "expose" => each(value, |port| json!(number(port))),
            _ => value.clone(),
        };
        if key == "volumes" {
            merge(&mut all, "volumes", compared);
        } else if !is_empty(&compared) {
            let key = if key == "mem_limit" { "deploy" } else { key };
            all.insert(key.into(), compared);
        }
    }
    Value::Object(all)
}

fn merge(all: &mut Map<String, Value>, key: &str, more: Value) {
    let before = all.remove(key).unwrap_or(json!([]));
    let both = [before.as_array().unwrap().clone(), more.as_array().unwrap().clone()].concat();
    all.insert(key.into(), sorted(Value::Array(both)));
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(_) => false,
        _ => false,
    }
}

fn each(list: &Value, change: impl Fn(&Value) -> Value) -> Value {
    list.as_array().expect("a list").iter().map(change).collect()
}

fn sorted(list: Value) -> Value {
    let mut items = list.as_array().expect("a list").clone();
    items.sort_by_key(Value::to_string);
    Value::Array(items)
}

fn without_null(map: &Value) -> Value {
    let entries = map.as_object().expect("a mapping").iter().filter(|(_, value)| !value.is_null());
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Go writes durations like `1m30s`.
fn millis(value: &Value) -> u64 {
    let (mut total, mut digits) = (0.0, String::new());
    let mut chars = value.as_str().expect("a duration").chars().peekable();
    while let Some(c) = chars.next() {
        let factor = match c {
            'h' => 3_600_000.0,
            'm' if chars.next_if_eq(&'s').is_some() => 1.0,
            'm' => 60_000.0,
            's' => 1_000.0,
            c => {
                digits.push(c);
                continue;
            }
        };
        total += digits.parse::<f64>().expect("a number") * factor;
        digits.clear();
    }
    total as u64
}

fn their_port(port: &Value) -> Value {
    let published = port["published"].as_str().map(|text| text.parse::<u64>().expect("a port"));
    json!([port["host_ip"], published, port["target"], port["protocol"]])
}

fn their_volume(volume: &Value) -> Value {
    let read_only = volume["read_only"].as_bool().unwrap_or(false);
    match volume["type"].as_str().expect("a type") {
        "tmpfs" => json!(["memory", volume["target"]]),
        kind => json!([kind, volume["source"], volume["target"], read_only]),
    }
}

fn their_file(given: &Value, defined: &Value, folder: &str) -> Value {
    let source = given["source"].as_str().expect("a source");
    let target = given["target"].as_str().unwrap_or(source);
    let target =
        if target.starts_with('/') { target.to_owned() } else { format!("{folder}{target}") };
    let origin = &defined[source];
    if let Some(file) = origin["file"].as_str() {
        return json!(["bind", file, target, true]);
    }
    let mode =
        given["mode"].as_str().map_or(0o444, |mode| u32::from_str_radix(mode, 8).expect("a mode"));
    // The value of a secret is not shown.
    json!([
        "text",
        origin["content"].as_str().filter(|_| folder != SECRETS),
        target,
        mode,
        given["uid"].as_str().and_then(|id| id.parse::<u32>().ok())
    ])
}

fn their_healthcheck(check: &Value) -> Value {
    let mut all = Map::new();
    for (key, value) in check.as_object().expect("a mapping") {
        match key.as_str() {
            "disable" if value == true => {
                all.insert("test".into(), json!(["NONE"]));
            }
            "disable" => {}
            "test" | "retries" => {
                all.insert(key.clone(), value.clone());
            }
            _ => {
                all.insert(key.clone(), json!(millis(value)));
            }
        }
    }
    Value::Object(all)
}

fn their_deploy(deploy: &Value, all: &mut Map<String, Value>) -> Value {
    let mut limits = Map::new();
    for (key, value) in deploy.as_object().expect("a mapping") {
        match key.as_str() {
            "replicas" => {
                all.insert("replicas".into(), value.clone());
            }
            "restart_policy" => {
                let most =
                    value["max_attempts"].as_u64().map_or(String::new(), |most| format!(":{most}"));
                all.insert(
                    "restart".into(),
                    json!(format!("{}{most}", value["condition"].as_str().unwrap_or("any"))),
                );
            }
            "resources" => {
                let cpus = value["limits"]["cpus"]
                    .as_f64()
                    .or_else(|| value["limits"]["cpus"].as_str()?.parse().ok());
                limits.insert("cpu_millis".into(), json!(cpus.map(|cpus| (cpus * 1000.0) as u64)));
                let memory = |part: &str| {
                    (!value[part]["memory"].is_null()).then(|| number(&value[part]["memory"]))
                };
                limits.insert("memory".into(), json!(memory("limits")));
                limits.insert("memory_reservation".into(), json!(memory("reservations")));
                limits.insert("pids".into(), value["limits"]["pids"].clone());
            }
            "placement" if is_empty(value) => {}
            other => panic!("`deploy.{other}` is not compared"),
        }
    }
    without_null(&Value::Object(limits))
}

fn their_build(build: &Value, config: &Value) -> Value {
    let mut all = Map::new();
    for (key, value) in build.as_object().expect("a mapping") {
        let value = match key.as_str() {
            "secrets" => each(value, |given| {
                let source = given["source"].as_str().expect("a source");
                let id = given["target"].as_str().unwrap_or(source);
                json!([
                    id,
                    config["secrets"][source]["environment"],
                    config["secrets"][source]["file"]
                ])
            }),
            "args" => without_null(value),
            "dockerfile" => json!(value.as_str().unwrap().trim_start_matches("./")),
            "extra_hosts" => {
                each(value, |host| json!(host.as_str().unwrap().replacen('=', ":", 1)))
            }
            _ => value.clone(),
        };
        all.insert(key.clone(), value);
    }
    Value::Object(all)
}

fn their_ulimits(limits: &Value) -> Value {
    let limit = |value: &Value| match value.as_i64() {
        Some(both) => json!([both, both]),
        None => json!([value["soft"], value["hard"]]),
    };
    let entries = limits.as_object().expect("a mapping").iter();
    Value::Object(entries.map(|(key, value)| (key.clone(), limit(value))).collect())
}

fn their_networks(networks: &Value) -> Value {
    let entries = networks.as_object().expect("a mapping").iter();
    let aliases = |value: &Value| {
        if value["aliases"].is_null() { json!([]) } else { value["aliases"].clone() }
    };
    Value::Object(entries.map(|(key, value)| (key.clone(), aliases(value))).collect())
}

fn their_depends(depends: &Value) -> Value {
    let entries = depends.as_object().expect("a mapping").iter();
    let one = |on: &Value| {
        json!([on["condition"], on["required"], on["restart"].as_bool().unwrap_or(false)])
    };
    Value::Object(entries.map(|(key, value)| (key.clone(), one(value))).collect())
}

/// Each service as both sides should see it: ours.
pub fn ours(composition: &Composition, fixture: &Path) -> BTreeMap<String, Value> {
    let services = composition.services.iter();
    services.map(|(name, service)| (name.to_string(), our_service(service, fixture))).collect()
}

fn at(fixture: &Path, path: &Path) -> String {
    let mut whole = std::path::PathBuf::new();
    for part in fixture.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                whole.pop();
            }
            part => whole.push(part),
        }
    }
    whole.to_string_lossy().into_owned()
}

fn our_service(service: &ComposedService, fixture: &Path) -> Value {
    let container = &service.container;
    let mut all = Map::new();
    let mut put = |key: &str, value: Value| {
        if !is_empty(&value) {
            all.insert(key.into(), value);
        }
    };
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    put("image", json!(service.image));
    put("container_name", json!(service.container_name));
    put("environment", json!(service.env));
    put("env_file", files(&service.env_files, fixture));
    put("command", json!(container.command));
    put("entrypoint", json!(container.entrypoint));
    put("restart", restart(container.restart));
    put("stop_signal", json!(container.stop_signal));
    put("user", json!(container.user));
    put("working_dir", json!(container.working_dir));
    put("hostname", json!(container.hostname));
    put("read_only", json!(container.read_only));
    put("init", json!(container.init));
    put("tty", json!(container.tty));
    put("stdin_open", json!(container.stdin_open));
    put("cap_add", list(&container.cap_add));
    put("cap_drop", list(&container.cap_drop));
    put("security_opt", list(&container.security_opt));
    put("group_add", list(&container.group_add));
    put("sysctls", json!(container.sysctls));
    put("labels", json!(container.labels));
    put("shm_size", json!(container.shm_size.map(|size| size.0)));
    if !container.expose.is_empty() {
        put("expose", json!(container.expose));
    }
    if service.stop_grace.as_secs() != 10 {
        put("stop_grace_period", json!(service.stop_grace.as_millis() as u64));
    }
    if service.replicas != 1 {
        put("replicas", json!(service.replicas));
    }
    let hosts: Vec<String> =
        container.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect();
    if !hosts.is_empty() {
        put("extra_hosts", sorted(json!(hosts)));
    }
    let ulimits = container
        .ulimits
        .iter()
        .map(|(name, limit)| (name.clone(), json!([limit.soft, limit.hard])));
    put("ulimits", Value::Object(ulimits.collect()));
    put("networks", networks(container));
    put("healthcheck", healthcheck(container));
    put("depends_on", depends(service));
    put("build", build(service, fixture));
    ports(container, &mut put);
    limits(container, &mut put);
    mounts(container, fixture, &mut put);
    Value::Object(all)
}

fn files(files: &[EnvFile], fixture: &Path) -> Value {
    if files.is_empty() {
        return Value::Null;
    }
    let file =
        |file: &EnvFile| json!([at(fixture, Path::new(&file.path)), file.required, file.raw]);
    files.iter().map(file).collect()
}

fn restart(restart: Restart) -> Value {
    match restart {
        Restart::No => Value::Null,
        Restart::Always => json!("always"),
        Restart::UnlessStopped => json!("unless-stopped"),
        Restart::OnFailure { most: None } => json!("on-failure"),
        Restart::OnFailure { most: Some(most) } => json!(format!("on-failure:{most}")),
    }
}

fn networks(container: &Container) -> Value {
    if container.networks.is_empty() {
        return json!({ "default": [] });
    }
    let one = |(name, attachment): (&String, &domain::container::Attachment)| {
        (name.clone(), json!(attachment.aliases))
    };
    Value::Object(container.networks.iter().map(one).collect())
}

fn healthcheck(container: &Container) -> Value {
    let Some(check) = &container.healthcheck else { return Value::Null };
    let millis = |time: Option<std::time::Duration>| time.map(|time| time.as_millis() as u64);
    let test = (!check.test.is_empty()).then_some(&check.test);
    let all = json!({
        "test": test,
        "interval": millis(check.interval),
        "timeout": millis(check.timeout),
        "start_period": millis(check.start_period),
        "start_interval": millis(check.start_interval),
        "retries": check.retries,
    });
    without_null(&all)
}

fn depends(service: &ComposedService) -> Value {
    let one = |(name, on): (&domain::ServiceName, &domain::config::Dependency)| {
        (name.to_string(), json!([on.condition, on.required, on.restart]))
    };
    Value::Object(service.depends_on.iter().map(one).collect())
}

fn build(service: &ComposedService, fixture: &Path) -> Value {
    let Some(build) = &service.build else { return Value::Null };
    let options = &build.options;
    let mut all = Map::new();
    all.insert("context".into(), json!(at(fixture, Path::new(&build.context))));
    match &options.inline {
        Some(text) => all.insert("dockerfile_inline".into(), json!(text)),
        None => all.insert("dockerfile".into(), json!(build.dockerfile)),
    };
    all.extend(options.target.iter().map(|target| ("target".into(), json!(target))));
    if !options.args.is_empty() {
        all.insert("args".into(), json!(options.args));
    }
    if !options.labels.is_empty() {
        all.insert("labels".into(), json!(options.labels));
    }
    if !options.extra_hosts.is_empty() {
        let hosts =
            options.extra_hosts.iter().map(|(name, address)| json!(format!("{name}:{address}")));
        all.insert("extra_hosts".into(), hosts.collect());
    }
    if !options.secrets.is_empty() {
        let one = |secret: &domain::config::BuildSecret| match &secret.from {
            SecretSource::Variable(name) => json!([secret.id, name, null]),
            SecretSource::File(path) => json!([secret.id, null, at(fixture, path)]),
        };
        all.insert("secrets".into(), options.secrets.iter().map(one).collect());
    }
    Value::Object(all)
}

fn ports(container: &Container, put: &mut dyn FnMut(&str, Value)) {
    if container.ports.is_empty() {
        return;
    }
    let protocol = |protocol| if protocol == Protocol::Udp { "udp" } else { "tcp" };
    let port = |port: &domain::container::Port| {
        json!([port.host, port.published, port.target, protocol(port.protocol)])
    };
    put("ports", container.ports.iter().map(port).collect());
}

fn limits(container: &Container, put: &mut dyn FnMut(&str, Value)) {
    let limits = &container.limits;
    let all = without_null(&json!({
        "cpu_millis": limits.cpu_millis,
        "memory": limits.memory.map(|size| size.0),
        "memory_reservation": limits.memory_reservation.map(|size| size.0),
        "pids": limits.pids,
    }));
    if *limits != domain::container::Limits::default() {
        put("deploy", all);
    }
}

fn mounts(container: &Container, fixture: &Path, put: &mut dyn FnMut(&str, Value)) {
    let mut all = Vec::new();
    for mount in &container.mounts {
        let Mount { source, target, read_only } = mount;
        all.push(match source {
            Source::Volume(name) => json!(["volume", name, target, read_only]),
            Source::Anonymous => json!(["volume", null, target, read_only]),
            Source::Tmpfs { .. } => json!(["memory", target]),
            Source::Host(path) => json!(["bind", path, target, read_only]),
            Source::Project(path) => json!(["bind", at(fixture, path), target, read_only]),
            Source::Text { text, mode, uid, .. } => {
                let text = Some(text).filter(|_| !target.starts_with(SECRETS));
                json!(["text", text, target, mode, uid])
            }
        });
    }
    if !all.is_empty() {
        put("volumes", sorted(Value::Array(all)));
    }
}
