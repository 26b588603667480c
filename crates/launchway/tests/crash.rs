//! Kills the real server after each event of a full deploy, as by `kill -9`, and starts it again: every time the deploy
//! ends well, and nothing is left over, lost or done twice. Run by `make test-crash`.

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Harness, Live, PATIENCE};

const ENVIRONMENTS: [&str; 2] = ["staging", "production"];

#[test]
fn a_deploy_ends_well_whatever_event_the_server_dies_after() {
    let mut harness = Harness::new();
    all_gates(&harness);
    harness.start();
    carry(&mut harness, "all gates");
    harness.kill_server();

    let mut deaths = 0;
    for event in 1.. {
        let change = format!("change {event}");
        let logged = logged(&harness);
        harness.env = vec![("LAUNCHWAY_CRASH_AFTER".into(), (logged + event).to_string())];
        harness.project.commit(&change);
        harness.spawn();
        let died = carry(&mut harness, &change);
        check(&harness, &change);
        harness.kill_server();
        if !died {
            break;
        }
        deaths += 1;
        println!(
            "killed after event {event}: {change} is live, {} events",
            self::logged(&harness) - logged
        );
    }
    assert!(deaths >= 25, "a full deploy has more events than {deaths}");
    println!("the server was killed after each of the {deaths} events of a deploy");
    take_down(&mut harness);
}

/// Every phase that a rollout can have.
fn all_gates(harness: &Harness) {
    let plain = harness.project.launchway_yaml("{ from: [USER] }");
    let verify =
        "verify: { e2e: [{ name: journey, run: 'true' }] }, bake: { for: 200ms, errors: 50% }";
    let gated = plain.replace("drain: 1s", &format!("drain: 1s, {verify}"));
    harness.project.write("launchway.yaml", &gated);
    harness.project.commit("all gates");
}

/// Follows a change until it is live everywhere, approving it when asked. A server that died is started
/// again; says whether it did.
fn carry(harness: &mut Harness, change: &str) -> bool {
    let deadline = Instant::now() + PATIENCE * 2;
    let mut died = false;
    loop {
        if !harness.server_runs() {
            died = true;
            harness.kill_server();
            harness.env.clear();
            harness.spawn();
        }
        let live = ENVIRONMENTS.map(|name| harness.live(name));
        if live.iter().all(|live| live.as_ref().is_some_and(|l| l.subject == change && l.quiet)) {
            return died;
        }
        if arrived(live[0].as_ref(), change) && !arrived(live[1].as_ref(), change) {
            // Refused when it was approved already: whether it was is what the next look shows.
            let _repeated = harness.launchway(&["approve", "production"]);
        }
        assert!(
            Instant::now() < deadline,
            "{change} did not arrive: {:#}\n{}",
            harness.status(),
            harness.said()
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn arrived(live: Option<&Live>, change: &str) -> bool {
    live.is_some_and(|live| live.subject == change)
}

/// One live slot that answers with the change, no process that nobody knows, no migration twice.
fn check(harness: &Harness, change: &str) {
    for name in ENVIRONMENTS {
        let live = harness.live(name).expect("live");
        assert!(live.ready, "{name} is not ready");
        let answer = harness.get(name).expect("an answer");
        assert!(answer.contains(&format!("{change} {}", live.release)), "{name}: {answer}");
        let migrated = harness.project.migrated(name);
        let once: BTreeSet<&String> = migrated.iter().collect();
        assert_eq!(once.len(), migrated.len(), "{name} was migrated twice: {migrated:?}");
    }
    harness.eventually("only known processes run", || {
        let status = harness.status();
        let known = pids(&status, "replicas");
        replicas_running(harness) == known && shims_running(harness) == known.len() + 1
    });
}

fn take_down(harness: &mut Harness) {
    harness.env.clear();
    harness.start();
    let status = harness.status();
    let mut addresses: Vec<SocketAddr> = Vec::new();
    collect(&status, &mut |value| {
        let text = value.as_str().unwrap_or_default().trim_start_matches("http://");
        addresses.extend(text.parse::<SocketAddr>());
    });
    assert!(!addresses.is_empty(), "status names no address: {status:#}");
    harness.expect(0, &["down", "--with-data"]);
    harness.server_ended();
    assert_eq!(harness.left_over(), Vec::<u32>::new(), "processes are left");
    for address in addresses {
        assert!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
    // No lock is left either: the next server takes the folder.
    harness.start();
}

/// How many events the log has.
fn logged(harness: &Harness) -> u64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut observer = control::observer::Observer::of(&harness.state);
        observer.look().await.expect("a log that replays");
        observer.entries.last().map_or(0, |entry| entry.seq)
    })
}

fn replicas_running(harness: &Harness) -> BTreeSet<u64> {
    let marked = harness.left_over().into_iter();
    marked.filter(|pid| command_line(*pid).contains("app.py")).map(u64::from).collect()
}

fn shims_running(harness: &Harness) -> usize {
    let state = harness.state.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("readable").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let shim = |pid: &u32| {
        let line = command_line(*pid);
        line.contains("shim") && line.contains(&state)
    };
    pids.filter(shim).count()
}

fn command_line(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    support::text(&line).replace('\0', " ")
}

/// The pids of all replicas that `status` knows.
fn pids(status: &Value, list: &str) -> BTreeSet<u64> {
    let mut pids = BTreeSet::new();
    collect(&status["environments"], &mut |value| {
        let replicas = value[list].as_array().into_iter().flatten();
        pids.extend(replicas.filter_map(|replica| replica["pid"].as_u64()));
    });
    pids
}

/// Every value inside a value.
fn collect(value: &Value, seen: &mut impl FnMut(&Value)) {
    seen(value);
    match value {
        Value::Array(all) => all.iter().for_each(|value| collect(value, seen)),
        Value::Object(all) => all.values().for_each(|value| collect(value, seen)),
        _ => {}
    }
}
