//! The server does not answer, or goes away, while somebody waits for what it says.

mod support;

use std::io::{BufRead, BufReader, Read};

use nix::sys::signal::Signal::SIGSTOP;
use support::{Harness, signal, text};

#[test]
fn whoever_asks_a_server_that_hangs_is_told_which_process_it_is_and_what_to_do() {
    let mut harness = Harness::new();
    harness.start();
    harness.wait_for_live("staging", "The first");
    let pid = harness.server_pid();
    // It is heard already when the server hangs, and has nothing to say.
    let mut listening =
        harness.begin(&["exec", "staging", "web", "--", "sh", "-c", "echo; sleep 777"]);
    let mut heard = [0];
    let stdout = listening.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(stdout, &mut heard).expect("a line");
    signal(pid, SIGSTOP);
    let verbs: [&[&str]; 9] = [
        &["status"],
        &["exec", "staging", "web", "--", "true"],
        &["history"],
        &["run"],
        &["deploy", "staging"],
        &["approve", "production"],
        &["rollback", "staging"],
        &["logs", "staging"],
        &["down"],
    ];
    let asking: Vec<_> = verbs.iter().map(|verb| harness.begin(verb)).collect();
    let doctor = harness.begin(&["doctor"]);
    for asking in asking.into_iter().chain([listening]) {
        let ended = asking.wait_with_output().expect("it ends");
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        let why = format!("the server (process {pid}) does not answer: it is stopped");
        assert!(said.contains(&why) && said.contains(&format!("kill -CONT {pid}")), "{said}");
    }
    let doctor = doctor.wait_with_output().expect("it ends");
    let said = text(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("kill -CONT {pid}")), "{said}");
    // What was asked of it dies with it.
    harness.kill_server();
    harness.start();
    harness.wait_for_live("staging", "The first");
}

#[test]
fn whoever_waits_for_a_deployment_goes_on_with_the_next_server() {
    let mut harness = Harness::new();
    let at = |name: &str| harness.state.with_file_name(name);
    let (built, migrated) = (at("built"), at("migrated"));
    let until =
        |path: &std::path::Path| format!("until test -e {}; do sleep 0.05; done", path.display());
    let file = harness.project.launchway_yaml("{ from: [USER] }");
    let file = file.replace("run: test -s text", &format!("run: echo tests; {}", until(&built)));
    let file = file.replace("migrate: ", &format!("migrate: {} && ", until(&migrated)));
    harness.project.write("launchway.yaml", &file);
    harness.project.save("Slow");
    harness.start();
    let mut deploy = harness.begin(&["deploy", "staging"]);
    let mut said = BufReader::new(deploy.stderr.take().expect("a pipe"));
    let mut heard = String::new();
    let mut hears = |wanted: &str| {
        let from = heard.len();
        while !heard[from..].contains(wanted) {
            assert_ne!(said.read_line(&mut heard).expect("readable"), 0, "{heard}");
        }
    };
    hears("test/unit | tests");
    harness.kill_server();
    hears("waiting up to 60 s for a server");
    harness.start();
    hears("the server is back: run-1 goes on");
    std::fs::write(&built, "").expect("written");
    hears("ro-1 migrating");
    harness.kill_server();
    hears("waiting up to 60 s for a server");
    harness.start();
    hears("the server is back: ro-1 goes on");
    std::fs::write(&migrated, "").expect("written");
    hears("moved the traffic");
    said.read_to_string(&mut heard).expect("readable");
    let ended = deploy.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{heard}");
    assert!(text(&ended.stdout).contains("r1 is live in staging"), "{ended:?}");
    assert_eq!(heard.matches("test/unit | tests").count(), 1, "{heard}");
    assert_eq!(harness.project.migrated("staging"), ["r1"]);
}
