//! A service's container: the same template, filled in where it runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use domain::ServiceName;
use domain::config::{EnvFile, Project, SecretSource, Service, Source, compose, interpolate, read};
use domain::container::{Container, Port, Protocol, Restart, Source as Mounted};
use domain::units::Size;
use proptest::prelude::*;

fn project() -> Project {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/accepted/containers");
    let text =
        |file: &str| std::fs::read_to_string(folder.join(file)).expect("the fixture is there");
    let (launchway, compose) = (text("launchway.yaml"), text("compose.yaml"));
    let launchway = Source { path: "launchway.yaml", text: &launchway };
    let compose = Source { path: "compose.yaml", text: &compose };
    read(launchway, compose).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

fn service<'p>(project: &'p Project, name: &str) -> &'p Service {
    &project.services[&ServiceName::new(name).expect("a name")]
}

/// The container of a service with the variables of an environment.
fn container(project: &Project, environment: &str, name: &str) -> Container {
    let environment = project.environments.iter().find(|e| e.name.as_str() == environment);
    let variables = &environment.expect("it is there").variables;
    let lookup = |name: &str| variables.get(name).cloned();
    service(project, name).container(&lookup).expect("it is right")
}

#[test]
fn a_container_has_what_the_environment_says() {
    let project = project();
    let staging = container(&project, "staging", "api");
    let production = container(&project, "production", "api");
    assert_eq!(staging.limits.memory, Some(Size(256 << 20)));
    assert_eq!(production.limits.memory, Some(Size(1 << 30)));
    let token = |container: &Container| {
        let mount = container.mounts.iter().find(|mount| mount.target == "/run/secrets/token");
        mount.expect("it has the secret").source.clone()
    };
    assert!(matches!(token(&staging), Mounted::Text { text, .. } if text == "staging-token"));
    assert!(matches!(token(&production), Mounted::Text { text, .. } if text == "production-token"));
}

#[test]
fn a_container_is_as_compose_says() {
    let project = project();
    let api = container(&project, "staging", "api");
    assert_eq!(api.command.as_deref(), Some(&["serve", "--workers", "4"].map(String::from)[..]));
    assert_eq!(
        api.entrypoint.as_deref(),
        Some(&["/entrypoint.sh", "--verbose"].map(String::from)[..])
    );
    assert_eq!((api.expose.as_slice(), api.answers_at), (&[8000][..], None));
    let check = api.healthcheck.as_ref().expect("it has one");
    assert_eq!(check.test, ["CMD-SHELL", "curl -f http://localhost:8000/health"]);
    assert_eq!(check.start_interval, Some(Duration::from_secs(1)));
    assert_eq!(api.restart, Restart::OnFailure { most: Some(3) });
    assert_eq!((api.limits.cpu_millis, api.limits.pids), (Some(500), Some(100)));
    assert_eq!(api.limits.memory_reservation, Some(Size(64 << 20)));
    assert_eq!((api.ulimits["nofile"].soft, api.ulimits["nofile"].hard), (1024, 4096));
    assert_eq!(api.networks["back"].aliases, ["shop-api"]);
    assert_eq!(api.labels["weight"], "10");
    assert_eq!(api.sysctls["net.core.somaxconn"], "1024");
    assert!(api.read_only && api.init && !api.tty);
    let sources: Vec<&Mounted> = api.mounts.iter().map(|mount| &mount.source).collect();
    assert!(sources.contains(&&Mounted::Volume("uploads".into())));
    assert!(sources.contains(&&Mounted::Project("config".into())));
    assert!(sources.contains(&&Mounted::Host("/etc/localtime".into())));
    assert!(sources.contains(&&Mounted::Anonymous));
    assert!(sources.contains(&&Mounted::Tmpfs { size: Some(Size(64 << 20)), mode: Some(0o1777) }));
    let web = container(&project, "staging", "web");
    assert_eq!((web.answers_at, web.ports.len()), (Some(80), 2));
    let config = web.mounts.iter().find(|mount| mount.target.ends_with("default.conf"));
    let config = &config.expect("it has its configuration").source;
    assert!(
        matches!(config, Mounted::Text { mode: Some(0o444), text, .. } if text.contains("listen 80"))
    );
}

#[test]
fn an_image_is_built_as_compose_says_and_files_of_variables_are_named() {
    let project = project();
    let (_, _, web) = project.built().find(|(name, ..)| name.as_str() == "web").expect("built");
    assert_eq!((web.context.as_str(), web.dockerfile.as_str()), ("web", "docker/Dockerfile"));
    assert_eq!(web.options.target.as_deref(), Some("run"));
    assert_eq!(web.options.args["VERSION"], "1.10");
    assert_eq!(web.options.labels["org.example.team"], "shop");
    assert_eq!(web.options.secrets[0].id, "npmrc");
    assert_eq!(web.options.secrets[0].from, SecretSource::File("npmrc".into()));
    assert!(web.native.is_none(), "no environment runs processes");
    let file = |path: &str, required| EnvFile { path: path.into(), required, raw: false };
    assert_eq!(
        service(&project, "api").env_files,
        [file("defaults.env", true), file("local.env", false)]
    );
}

#[test]
fn a_release_keeps_the_template_and_an_older_one_has_none() {
    let project = project();
    let mut json = serde_json::to_value(&project).expect("written");
    let again: Project = serde_json::from_value(json.clone()).expect("read");
    assert_eq!(container(&again, "staging", "api"), container(&project, "staging", "api"));
    for service in json["services"].as_object_mut().expect("a mapping").values_mut() {
        let service = service.as_object_mut().expect("a mapping");
        service.remove("template").expect("it is written now");
        service.remove("env_files").expect("it is written now");
    }
    let old: Project = serde_json::from_value(json).expect("read");
    assert_eq!(container(&old, "staging", "api"), Container::default());
}

#[test]
fn what_is_missing_where_it_runs_is_an_error_without_secrets_in_it() {
    let project = project();
    let error = service(&project, "api").container(&|_| None).expect_err("no token");
    let text = error.to_string();
    assert!(text.contains("`token` is the value of `API_TOKEN`, which has none"), "{text}");
    let lookup = |name: &str| Some(if name == "MEMORY" { "much" } else { "s3cret" }.to_owned());
    let text = service(&project, "api").container(&lookup).expect_err("no size").to_string();
    assert!(text.contains("`memory` must be a size, it is `much`"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

/// One container of a plain Compose file with these lines.
fn alone(lines: &str) -> Option<Container> {
    let text = format!(
        "services:\n  web:\n    image: web\n{lines}\nvolumes: {{ data: {{}}, d-1_x.y: {{}} }}\n"
    );
    let source = Source { path: "compose.yaml", text: &text };
    let (composition, _) = compose(source, &|_| None, &[]).ok()?;
    composition.services.into_values().next().map(|service| service.container)
}

/// A template and its value, made together.
fn templates() -> impl Strategy<Value = (String, String)> {
    let text = "[a-z :./-]{0,6}".prop_map(|text| (text.clone(), text));
    let leaf = prop_oneof![
        text,
        Just(("$$".into(), "$".into())),
        Just(("${FULL}".into(), "tea".into())),
        Just(("$FULL.".into(), "tea.".into())),
        Just(("${EMPTY}".into(), String::new())),
        Just(("${UNSET}".into(), String::new())),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let word = prop::collection::vec(inner, 0..4).prop_map(|parts: Vec<(String, String)>| {
            parts
                .into_iter()
                .fold((String::new(), String::new()), |(a, b), (c, d)| (a + &c, b + &d))
        });
        let names =
            prop::sample::select(vec![("FULL", Some("tea")), ("EMPTY", Some("")), ("UNSET", None)]);
        let forms = prop::sample::select(vec![":-", "-", ":+", "+"]);
        prop_oneof![
            word.clone(),
            (names, forms, word).prop_map(|((name, value), form, (word, filled))| {
                let there = value.filter(|value| !(form.starts_with(':') && value.is_empty()));
                let result = match (form.ends_with('-'), there) {
                    (true, Some(value)) => value.to_owned(),
                    (true, None) | (false, Some(_)) => filled,
                    (false, None) => String::new(),
                };
                (format!("${{{name}{form}{word}}}"), result)
            })
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_form_of_interpolation_nested_gives_its_value((template, value) in templates()) {
        let variables = BTreeMap::from([("FULL", "tea"), ("EMPTY", "")]);
        let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        prop_assert_eq!(interpolate(&template, &lookup).ok(), Some(value), "{}", template);
    }

    #[test]
    fn every_short_port_is_read_as_it_was_written(
        host in prop::sample::select(vec!["", "127.0.0.1:", "[::1]:", "0.0.0.0:"]),
        published in prop::option::of(1..60_000u16),
        target in 1..60_000u16,
        length in 0..5u16,
        udp in any::<bool>(),
    ) {
        let range = |first: u16| if length == 0 { first.to_string() } else { format!("{first}-{}", first + length) };
        let outside = match published {
            Some(first) => format!("{host}{}:", range(first)),
            None if host.is_empty() => String::new(),
            None => format!("{host}:"),
        };
        let text = format!("{outside}{}{}", range(target), if udp { "/udp" } else { "" });
        let wanted: Vec<Port> = (0..=length).map(|n| Port {
            host: host.trim_end_matches(':').trim_matches(['[', ']']).parse().ok(),
            published: published.map(|first| first + n),
            target: target + n,
            protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        }).collect();
        let read = alone(&format!("    ports: [\"{text}\"]")).map(|container| container.ports);
        prop_assert_eq!(read, Some(wanted), "{}", text);
    }

    #[test]
    fn every_short_volume_is_read_as_it_was_written(
        source in prop::sample::select(vec!["", "data", "d-1_x.y", "./a/./b/", "/srv/x", "../up"]),
        target in "/[a-z]{1,5}(/[a-z.]{1,5}[a-z])?",
        option in prop::sample::select(vec!["", ":ro", ":rw", ":ro,z", ":rw,Z"]),
    ) {
        let source_kind = match source {
            "" => Mounted::Anonymous,
            "./a/./b/" => Mounted::Project("a/b".into()),
            "../up" => Mounted::Project("../up".into()),
            "/srv/x" => Mounted::Host("/srv/x".into()),
            name => Mounted::Volume(name.into()),
        };
        let text = if source.is_empty() { target.clone() } else { format!("{source}:{target}{option}") };
        let read = alone(&format!("    volumes: [\"{text}\"]")).expect("it is right");
        let mount = &read.mounts[0];
        prop_assert_eq!((&mount.source, mount.target.as_str()), (&source_kind, target.as_str()), "{}", text);
        prop_assert_eq!(mount.read_only, !source.is_empty() && option.contains("ro"), "{}", text);
    }

    #[test]
    fn no_text_at_all_brings_the_reader_of_a_plain_file_down(
        text in prop::collection::vec(prop::sample::select(vec![
            "services:", "\n  web:", "\n    image: ", "x", "ports: [", "]", "{", "}", "\n    ", "volumes:", ":", "- ",
            "\"", "${A", ":-", "}", "secrets", "deploy: ", "command: ", "'", "\n", "*a", "&a ", "<<: ", "networks", "null", "0",
            "healthcheck", "test", "é🫖", "..", "~", "/", "tmpfs", "configs:", "file: ",
        ]), 0..60),
    ) {
        let text = text.concat();
        let read = compose(Source { path: "compose.yaml", text: &text }, &|_| None, &["*".to_owned()]);
        if let Err(mistakes) = read {
            prop_assert!(!mistakes.is_empty());
        }
    }
}
