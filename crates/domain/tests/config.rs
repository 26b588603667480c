//! Reading configuration: what a project means, and that no text whatever brings the reader down.

use std::path::Path;
use std::time::Duration;

use domain::config::{
    CertificateSource, ChallengeKind, Project, Scan, ServiceKind, Severity, Source, inspect, read,
};
use domain::scan::{Choice, Rules, Tool};
use domain::slot::{Launch, Probe};
use domain::units::Size;
use proptest::prelude::*;

fn fixture(kind: &str, name: &str) -> (String, String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(kind).join(name);
    let text =
        |file: &str| std::fs::read_to_string(folder.join(file)).expect("the fixture is there");
    (text("launchway.yaml"), text("compose.yaml"))
}

fn sources<'a>(launchway: &'a str, compose: &'a str) -> [Source<'a>; 2] {
    [
        Source { path: "launchway.yaml", text: launchway },
        Source { path: "compose.yaml", text: compose },
    ]
}

fn accepted(name: &str) -> Project {
    let (launchway, compose) = fixture("accepted", name);
    let [launchway, compose] = sources(&launchway, &compose);
    read(launchway, compose).expect("an accepted fixture is read")
}

fn built<'a>(project: &'a Project, name: &str) -> &'a domain::config::Built {
    project.built().find(|(service, ..)| service.as_str() == name).expect("it is built").2
}

#[test]
fn what_is_left_out_has_its_default() {
    let project = accepted("smallest");
    let web = built(&project, "web");
    assert_eq!((web.context.as_str(), web.dockerfile.as_str()), ("", "Dockerfile"));
    assert_eq!(web.native.as_ref().map(|native| &native.launch), Some(&Launch::Static("".into())));
    assert_eq!((web.replicas, web.stop_grace), (1, Duration::from_secs(10)));
    assert_eq!(web.health.probe, Probe::Tcp);
    assert!(matches!(&project.build.scan, Scan::On { steps, .. } if steps.is_empty()));
    let production = &project.environments[0];
    assert_eq!(production.host, "production.site.localhost");
    assert_eq!(production.preview_host(), "preview-production.site.localhost");
    assert_eq!(
        (production.drain, production.keep),
        (Duration::from_secs(30), Duration::from_secs(1800))
    );
    assert_eq!(production.spread, Duration::from_secs(5));
    assert!(production.names.is_empty() && production.tls.is_none());
    assert!(production.approval.is_none() && production.bake.is_none());
}

#[test]
fn what_is_said_is_what_is_read() {
    let project = accepted("everything");
    let api = built(&project, "api");
    assert_eq!(api.health.probe, Probe::Http("/health".into()));
    assert_eq!(api.health.interval, Duration::from_millis(500));
    assert_eq!(api.health.start_deadline, Duration::from_secs(120));
    assert_eq!((api.replicas, api.stop_grace), (3, Duration::from_secs(90)));
    let unit = &project.build.test[0];
    assert_eq!(unit.folder, "api");
    assert_eq!(unit.inputs, ["api"]);
    assert_eq!(unit.env["PORT"], "8080");
    assert_eq!(project.build.integrate[0].inputs, [""]);
    let names: Vec<&str> = project.environments.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["development", "staging", "production", "preview"]);
    assert_eq!(project.environments[1].variables, project.environments[3].variables);
}

#[test]
fn the_scan_gate_looks_for_what_the_file_says_and_lives_with_what_it_names_until_its_day() {
    let project = accepted("everything");
    let Scan::On { fail_on, steps, rules } = &project.build.scan else { panic!("it is on") };
    assert_eq!((*fail_on, steps.len(), rules.fixable_only), (Severity::Critical, 1, true));
    let looks = [rules.sbom, rules.vulnerabilities, rules.dockerfiles, rules.secrets];
    let only = Choice::Only;
    assert_eq!(looks, [Choice::Auto, only(Tool::OsvScanner), only(Tool::Hadolint), Choice::Off]);
    assert_eq!(rules.database.path.as_deref(), Some("/var/lib/osv"));
    assert_eq!(rules.database.max_age, Duration::from_secs(3 * 86_400));
    let [first, second] = rules.ignore.as_slice() else { panic!("{:?}", rules.ignore) };
    assert_eq!((first.package.as_deref(), first.line), (Some("jinja2"), 33));
    assert_eq!(
        (second.path.as_deref(), second.expires.to_string()),
        (Some("web/Dockerfile"), "2027-06-30".into())
    );
}

#[test]
fn where_images_are_built_everything_is_looked_for_unless_the_file_says_otherwise() {
    let (launchway, compose) = fixture("accepted", "smallest");
    let rules = |launchway: &str| {
        let [launchway, compose] = sources(launchway, &compose);
        match read(launchway, compose).expect("it is read").build.scan {
            Scan::On { rules, .. } => *rules,
            Scan::Off => panic!("it is on"),
        }
    };
    assert_eq!(rules(&launchway), Rules::default());
    assert_eq!(Rules::default().inspections().count(), 0, "as it was before there was any of it");
    let docker = launchway
        .replace("production: {}", "production: { engine: docker }")
        .replace("web: { native: { static: . } }", "web: { health: /health }");
    let looks =
        |rules: Rules| [rules.sbom, rules.vulnerabilities, rules.dockerfiles, rules.secrets];
    assert_eq!(looks(rules(&docker)), [Choice::Auto; 4]);
    let off = format!("{docker}build: {{ scan: {{ vulnerabilities: off }} }}\n");
    assert_eq!(looks(rules(&off)), [Choice::Auto, Choice::Off, Choice::Auto, Choice::Auto]);
}

#[test]
fn a_release_of_before_there_were_such_rules_is_planned_as_it_was() {
    let stored = r#"{"on":{"fail_on":"high","steps":[]}}"#;
    let scan: Scan = serde_json::from_str(stored).expect("it is read");
    assert_eq!(
        scan,
        Scan::On { fail_on: Severity::High, steps: Vec::new(), rules: Box::default() }
    );
}

#[test]
fn the_edge_is_told_of_names_certificates_and_limits() {
    let project = accepted("everything");
    let environment = |name: &str| {
        let found = project.environments.iter().find(|e| e.name.as_str() == name);
        found.expect("it is there")
    };
    let production = environment("production");
    let hosts: Vec<&str> = production.hosts().collect();
    assert_eq!(hosts, ["shop.example.com", "www.example.com", "shop.example.org"]);
    assert_eq!(production.spread, Duration::from_secs(20));
    let acme =
        |name| match environment(name).tls.as_ref().map(|tls| (&tls.certificate, tls.redirect)) {
            Some((CertificateSource::Acme(acme), true)) => acme,
            other => panic!("not from a CA: {other:?}"),
        };
    assert_eq!(acme("production").challenge, ChallengeKind::TlsAlpn01);
    assert_eq!(acme("production").email.as_deref(), Some("ops@example.com"));
    assert!(acme("production").directory.contains("letsencrypt.org"));
    assert_eq!(acme("preview").challenge, ChallengeKind::Http01);
    assert_eq!(acme("preview").directory, "https://ca.internal:9000/acme/dir");
    let staging = environment("staging").tls.as_ref().expect("it has a certificate");
    assert!(
        matches!(&staging.certificate, CertificateSource::Files { key, .. } if key == "certificates/staging.key")
    );
    assert!(!staging.redirect);
    assert_eq!(project.routes["/api"].max_body, Some(Size(10 << 20)));
    assert_eq!(project.routes["/hooks/in"].max_body, None);
}

#[test]
fn a_release_of_before_there_were_names_certificates_and_limits_is_still_read() {
    let project = accepted("smallest");
    let mut json = serde_json::to_value(&project).expect("written");
    for environment in json["environments"].as_array_mut().expect("a list") {
        let environment = environment.as_object_mut().expect("a mapping");
        for key in ["names", "tls", "spread"] {
            environment.remove(key).expect("it is written now");
        }
    }
    for route in json["routes"].as_object_mut().expect("a mapping").values_mut() {
        *route = route["service"].take();
    }
    assert_eq!(serde_json::from_value::<Project>(json).expect("read"), project);
}

#[test]
fn compose_is_read_with_its_merge_keys_lists_and_defaults() {
    let project = accepted("everything");
    let service =
        |name: &str| project.services.iter().find(|(n, _)| n.as_str() == name).expect("there").1;
    let api = service("api");
    assert_eq!((api.env["LOG_LEVEL"].as_str(), api.env["WORKERS"].as_str()), ("info", "4"));
    assert_eq!(
        api.env["PRICE"], "$$5",
        "interpolation is for later, it depends on the environment"
    );
    assert_eq!(api.depends_on.len(), 2);
    let db = service("db");
    assert_eq!(db.kind, ServiceKind::Backing { image: "postgres:16-alpine".into() });
    assert_eq!(db.env["POSTGRES_USER"], "shop");
}

#[test]
fn a_project_survives_being_written_down() {
    let project = accepted("everything");
    let json = serde_json::to_string(&project).expect("written");
    assert_eq!(serde_json::from_str::<Project>(&json).expect("read"), project);
}

#[test]
fn all_mistakes_of_both_files_come_at_once() {
    let (launchway, compose) = fixture("broken", "several-mistakes-at-once");
    let [launchway, compose] = sources(&launchway, &compose);
    let mistakes = read(launchway, compose).expect_err("it is broken");
    let count = |path: &str| mistakes.iter().filter(|mistake| mistake.path == path).count();
    assert_eq!((count("launchway.yaml"), count("compose.yaml")), (6, 2), "{mistakes:#?}");
}

/// Reads and checks what must hold of every answer.
fn holds(launchway: &str, compose: &str) -> Result<(), TestCaseError> {
    let [launchway, compose] = sources(launchway, compose);
    let Err(mistakes) = inspect(launchway, compose) else { return Ok(()) };
    prop_assert!(!mistakes.is_empty());
    for mistake in mistakes {
        let source = if mistake.path == launchway.path { launchway.text } else { compose.text };
        prop_assert!(mistake.line >= 1 && mistake.column >= 1, "{:?}", mistake);
        prop_assert!(!mistake.message.is_empty() && !mistake.help.is_empty(), "{:?}", mistake);
        let range = mistake.offset..mistake.offset + mistake.length;
        prop_assert_eq!(source.get(range), Some(mistake.text.as_str()));
        prop_assert!(source[..mistake.offset].matches('\n').count() + 1 == mistake.line);
    }
    Ok(())
}

/// Pieces that mean something in YAML or in the files.
fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "\n",
        "\n  ",
        "\n    ",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a ",
        "*a",
        "<<: ",
        "'",
        "\"",
        "|\n",
        "#",
        "!t ",
        "?",
        "---\n",
        "...\n",
        "\t",
        "~",
        "null",
        "true",
        "30s",
        "30",
        "1%",
        "2x",
        "${",
        "$",
        "}",
        ":-",
        "\u{feff}",
        "ä🫖",
        "\r\n",
        "\0",
        "services",
        "api",
        "after",
        "staging",
        "build",
        "../",
        "/",
        "%YAML 1.2\n",
    ];
    prop_oneof![
        prop::sample::select(KNOWN).prop_map(str::to_owned),
        any::<char>().prop_map(String::from)
    ]
}

/// Replaces `cut` characters from `at` on by `piece`.
fn mutate(text: &str, at: prop::sample::Index, cut: usize, piece: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = at.index(chars.len() + 1);
    let after = chars.iter().skip(at + cut);
    chars[..at].iter().copied().chain(piece.chars()).chain(after.copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn no_change_to_a_file_brings_the_reader_down(
        changes in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 0..12usize, piece()), 1..6),
        whole in any::<bool>(),
    ) {
        let (mut launchway, mut compose) = fixture("accepted", if whole { "whole" } else { "everything" });
        for (first, at, cut, piece) in changes {
            let text = if first { &mut launchway } else { &mut compose };
            *text = mutate(text, at, cut, &piece);
        }
        holds(&launchway, &compose)?;
    }

    #[test]
    fn no_text_at_all_brings_the_reader_down(
        launchway in prop::collection::vec(piece(), 0..60),
        compose in prop::collection::vec(piece(), 0..60),
    ) {
        holds(&launchway.concat(), &compose.concat())?;
    }

    #[test]
    fn interpolation_ends_on_every_text(template in prop::collection::vec(piece(), 0..30)) {
        let _ = domain::config::interpolate(&template.concat(), &|name| (name.len() % 2 == 0).then(|| name.to_owned()));
    }
}
