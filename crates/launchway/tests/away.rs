//! The server does not answer, or goes away, while somebody waits for what it says.

mod support;

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
