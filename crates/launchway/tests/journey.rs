//! The whole way with the real binary: from a commit to production and back, and over a killed server.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::Child;

use nix::sys::signal::Signal;
use support::Harness;

#[test]
fn a_commit_goes_to_staging_by_itself_and_to_production_when_approved_and_back() {
    let mut harness = Harness::new();
    harness.start();
    let staging = harness.wait_for_live("staging", "The first");
    assert!(staging.ready);
    assert!(harness.get("staging").expect("an answer").ends_with("first r1\n"));
    assert_eq!(harness.live("production"), None);
    assert!(!harness.said().contains("certificate"), "{}", harness.said());
    what_is_used_and_served_is_shown(&harness);

    harness.eventually("production waits for approval", || {
        harness.expect(0, &["status", "production"]).contains("launchway approve production")
    });
    harness.expect(5, &["promote", "staging"]);
    harness.expect(0, &["approve", "production", "--wait"]);
    let first = harness.wait_for_live("production", "The first");
    assert!(harness.get("production").expect("an answer").ends_with("first r1\n"));

    harness.project.commit("second");
    harness.wait_for_live("staging", "second");
    let asked = harness.expect(0, &["deploy", "production", "r1"]);
    assert!(
        asked.starts_with("r1 is live there already; ro-4 (r2, awaiting approval) "),
        "{asked}"
    );
    harness.eventually("the second waits for approval", || {
        harness.launchway(&["approve", "production"]).status.success()
    });
    harness.expect(0, &["promote", "staging"]);
    let second = harness.wait_for_live("production", "second");
    assert!(harness.get("production").expect("an answer").ends_with("second r2\n"));
    assert_ne!(first.pids, second.pids);

    let shown = harness.expect(0, &["status", "production"]);
    assert!(shown.contains("rollback   ready to r1"), "{shown}");
    let back = harness.expect(0, &["rollback", "production"]);
    assert!(back.starts_with("r1 has the traffic of production again"), "{back}");
    assert!(harness.get("production").expect("an answer").ends_with("first r1\n"));
    assert_eq!(
        harness.live("production").expect("live").pids,
        first.pids,
        "the warm slot was used"
    );
    let forward =
        "r1 is what was gone back to; `launchway deploy production r2` goes forward again";
    let shown = harness.expect(0, &["status", "production"]);
    assert!(shown.contains(forward), "{shown}");
    assert_eq!(harness.project.migrated("production"), ["r1", "r2"]);
    assert_eq!(harness.project.migrated("staging"), ["r1", "r2"]);

    let history = harness.expect(0, &["history"]);
    assert!(history.contains("run-2") && history.contains("rollback"), "{history}");
    assert!(history.contains(" (branch main)") && !history.contains("by ("), "{history}");
    harness.expect(0, &["down"]);
    assert!(harness.server_ended().success());
    assert_eq!(harness.left_over(), Vec::<u32>::new());
    let again = harness.launchway(&["down"]);
    let said = support::text(&again.stderr);
    assert!(again.status.success() && said.contains("nothing ran any more"), "{said}");
    assert!(!said.contains("stopping"), "{said}");
    assert_eq!(harness.left_over(), Vec::<u32>::new(), "nothing is started to be stopped");
}

/// In staging, where a single replica answered so far.
fn what_is_used_and_served_is_shown(harness: &Harness) {
    let live = || {
        let status = harness.status();
        let all = status["environments"].as_array().expect("environments").iter();
        let staging = all.clone().find(|here| here["name"] == "staging").expect("staging");
        let slots = staging["slots"].as_array().expect("slots").iter();
        slots.clone().find(|slot| slot["live"] == true).expect("live").clone()
    };
    let count = |class: &str| live()["traffic"]["web"]["classes"][class].as_u64().expect("counted");
    let (good, bad) = (count("2xx"), count("5xx"));
    for path in ["/", "/", "/fails"] {
        harness.get_path("staging", path).expect("an answer");
    }
    assert_eq!((count("2xx"), count("5xx")), (good + 2, bad + 1));
    assert!(live()["traffic"]["web"]["p99_ms"].as_f64() > Some(0.0));
    harness.eventually("two readings tell the share of the CPU", || {
        let usage = &live()["replicas"][0]["usage"];
        usage["memory_bytes"].as_u64() > Some(0) && usage["cpu_share"].is_f64()
    });
    let shown = harness.expect(0, &["status", "staging"]);
    assert!(shown.contains("MiB memory, ") && shown.contains(" CPU, "), "{shown}");
    assert!(shown.contains("1 5xx") && shown.contains("p99 "), "{shown}");
}

#[test]
fn a_killed_server_is_not_noticed_and_the_next_one_adopts_what_runs() {
    let mut harness = Harness::new();
    harness.start();
    let before = harness.wait_for_live("staging", "The first");
    let edge = harness.status()["edge"]["pid"].clone();
    harness.kill_server();
    let output = harness.launchway(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(support::text(&output.stdout).contains("r1"), "{output:?}");
    assert!(support::text(&output.stderr).contains("start one with `launchway server`"));
    harness.start();
    let after = harness.wait_for_live("staging", "The first");
    assert_eq!(before.pids, after.pids, "nothing was started twice");
    assert_eq!(harness.status()["edge"]["pid"], edge);
    assert_eq!(harness.project.migrated("staging"), ["r1"]);
}

#[test]
fn a_gate_says_no_with_its_own_exit_code() {
    let mut harness = Harness::new();
    let approval = "{ from: [nobody-of-this-name] }";
    harness.project.write("launchway.yaml", &harness.project.launchway_yaml(approval));
    harness.project.save("Others decide");
    harness.start();
    harness.expect(3, &["deploy", "production"]);
    harness.wait_for_live("staging", "Others decide");
    harness.eventually("production waits for approval", || {
        harness.launchway(&["deploy", "production"]).status.code() == Some(5)
    });
    harness.expect(3, &["approve", "production"]);
    harness.expect(0, &["abort", "production"]);
    harness.expect(1, &["approve", "production"]);
    harness.expect(2, &["status", "atlantis"]);
}

#[test]
fn a_deployment_of_a_fresh_head_and_that_of_its_branch_are_one() {
    let mut harness = Harness::new();
    harness.start();
    harness.wait_for_live("staging", "The first");
    let made = || {
        let history = harness.expect(0, &["history", "--json"]);
        let history: serde_json::Value = serde_json::from_str(&history).expect("JSON");
        let of_staging = |rollout: &&serde_json::Value| rollout["environment"] == "staging";
        let rollouts = history["rollouts"].as_array().expect("rollouts").iter();
        let runs = history["runs"].as_array().expect("runs").len();
        (runs, rollouts.filter(of_staging).count())
    };
    harness.project.commit("asked for at once");
    harness.expect(0, &["deploy", "staging"]);
    let answer = harness.get("staging").expect("an answer");
    assert!(answer.ends_with("asked for at once r2\n"), "{answer}");
    harness.project.commit("seen by the branch first");
    harness.eventually("the branch is built", || made().0 == 3);
    harness.expect(0, &["deploy", "staging"]);
    let answer = harness.get("staging").expect("an answer");
    assert!(answer.ends_with("branch first r3\n"), "{answer}");
    harness.project.commit("asked for twice");
    let first = harness.begin(&["deploy", "staging"]);
    harness.expect(0, &["run", "--deploy", "staging"]);
    let first = first.wait_with_output().expect("it ends");
    assert!(first.status.success(), "{first:?}");
    harness.wait_for_live("staging", "asked for twice");
    assert_eq!(made(), (4, 4));
}

#[test]
fn a_head_that_its_branch_brings_live_while_git_looks_it_up_is_not_built_again() {
    let mut harness = Harness::new();
    let (bin, asked, go) = {
        let at = |name| harness.state.with_file_name(name);
        (at("bin"), at("asked"), at("go"))
    };
    let slow = format!(
        "#!/bin/sh\ncase \"$*\" in *held*) touch {}; until test -e {}; do sleep 0.02; done;; esac\n\
         PATH=${{PATH#*:}} exec git \"$@\"\n",
        asked.display(),
        go.display()
    );
    std::fs::create_dir(&bin).expect("created");
    std::fs::write(bin.join("git"), slow).expect("written");
    support::open_to_all(&bin, 0o755);
    support::open_to_all(&bin.join("git"), 0o755);
    let path = std::env::var("PATH").expect("a path");
    harness.env.push(("PATH".into(), format!("{}:{path}", bin.display())));
    harness.start();
    harness.wait_for_live("staging", "The first");

    harness.project.git(&["checkout", "-q", "-b", "aside"]);
    harness.project.commit("not on the branch yet");
    harness.project.git(&["tag", "held"]);
    let deploy = harness.begin(&["deploy", "staging", "held"]);
    harness.eventually("the server looks it up", || asked.exists());
    harness.project.git(&["update-ref", "refs/heads/main", "held"]);
    harness.wait_for_live("staging", "not on the branch yet");
    std::fs::write(&go, "").expect("written");
    let deploy = deploy.wait_with_output().expect("it ends");
    assert!(deploy.status.success(), "{deploy:?}");
    let answer = harness.get("staging").expect("an answer");
    assert!(answer.ends_with("yet r2\n"), "built again: {answer}");
}

#[test]
fn a_run_by_hand_that_hangs_holds_no_branch_up() {
    let mut harness = Harness::new();
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let slow = yaml.replace("run: test -s text", "run: echo working; exec sleep 300");
    harness.project.write("launchway.yaml", &slow.replace("branch: main", "branch: other"));
    harness.project.save("Hangs");
    harness.start();
    let hangs = harness.begin(&["run"]);
    let log = harness.state.join("runs/run-1/steps/unit/log");
    harness.eventually("the step works", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("working"))
    });
    harness.project.write("launchway.yaml", &yaml);
    harness.project.save("Does not hang");
    harness.wait_for_live("staging", "Does not hang");
    harness.project.commit("second");
    harness.wait_for_live("staging", "second");
    // As it was once: every step is reused.
    harness.project.commit("first");
    harness.eventually("the last is live", || {
        harness.live("staging").is_some_and(|live| live.release == "r3")
    });
    assert!(harness.launchway(&["abort", "run-1"]).status.success(), "it hung until now");
    let hung = hangs.wait_with_output().expect("it ends");
    assert_eq!(hung.status.code(), Some(130), "{hung:?}");
}

#[test]
fn a_run_that_waits_for_another_that_builds_the_same_says_so_and_goes_on_without_it() {
    let mut harness = Harness::new();
    let flag = harness.project.folder.with_file_name("hangs");
    std::fs::write(&flag, "").expect("written");
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let hangs = format!("setup: while test -e {}; do sleep 0.1; done; mkdir", flag.display());
    let yaml = yaml.replace("setup: mkdir", &hangs);
    harness.project.write("launchway.yaml", &yaml.replace("branch: main", "branch: other"));
    harness.project.save("By hand");
    harness.start();
    let by_hand = harness.begin(&["run"]);
    harness.eventually("the first builds", || {
        harness.expect(0, &["status"]).contains("waits for stage images")
    });
    harness.project.write("launchway.yaml", &yaml);
    harness.project.save("By its branch");
    harness.eventually("the second says what it waits for", || {
        let said = harness.launchway(&["logs", "run-2", "image web"]);
        support::text(&said.stdout).contains("waits for run-1, which builds the same")
    });
    harness.expect(0, &["abort", "run-1"]);
    std::fs::remove_file(&flag).expect("removed");
    harness.wait_for_live("staging", "By its branch");
    by_hand.wait_with_output().expect("it ends");
}

#[test]
fn a_release_that_does_not_start_leaves_its_evidence_and_the_old_one_live() {
    let mut harness = Harness::new();
    harness.start();
    let good = harness.wait_for_live("staging", "The first");
    harness.project.write("web/app.py", "import sys\nsys.exit('no port for me')\n");
    harness.project.save("Broken");
    harness.eventually("the broken one is built", || {
        harness.expect(0, &["history", "--json"]).contains("\"r2\"")
    });
    let output = harness.launchway(&["deploy", "staging"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = support::text(&output.stderr);
    assert!(said.contains("web 0 exited with code 1; it last said: no port for me"), "{said}");
    assert!(said.contains("web/app.py"), "{said}");
    let live = harness.wait_for_live("staging", "The first");
    assert_eq!(live.pids, good.pids);
}

#[test]
fn a_supervisor_that_is_killed_while_a_release_starts_is_named_as_the_cause() {
    let mut harness = Harness::new();
    let go = harness.state.with_file_name("go");
    let app = std::fs::read_to_string(harness.project.folder.join("web/app.py")).expect("readable");
    let wait = format!("import time\nwhile not os.path.exists({go:?}): time.sleep(0.02)\n");
    harness.project.write("web/app.py", &app.replace("host = ", &format!("{wait}host = ")));
    harness.project.save("Starts slowly");
    harness.start();
    let shim = || {
        let status = harness.status();
        let replica = &status["environments"][0]["slots"][0]["replicas"][0];
        // Its command runs already.
        replica["pid"].as_u64().and(replica["shim_pid"].as_u64())
    };
    harness.eventually("the replica starts", || shim().is_some());
    let shim = u32::try_from(shim().expect("a pid")).expect("a pid");
    // Nobody looks while it is away, so only what comes after it can tell.
    harness.kill_server();
    support::signal(shim, Signal::SIGKILL);
    std::fs::write(&go, "").expect("written");
    harness.start();
    let end = || {
        let status = harness.status();
        status["environments"][0]["last"]["end"].as_str().map(str::to_owned)
    };
    harness.eventually("the release has failed", || end().is_some());
    let end = end().expect("it ended");
    assert!(end.contains("web 0 ended unseen, its supervisor was killed"), "{end}");
}

#[test]
fn what_a_service_said_that_never_started_is_found_where_nothing_is_live() {
    let mut harness = Harness::new();
    harness.project.write("web/app.py", "import sys\nsys.exit('no port for me')\n");
    harness.project.git(&["commit", "-q", "-a", "--amend", "-m", "Broken"]);
    harness.start();
    harness.eventually("the release has failed", || {
        harness.status()["environments"][0]["last"]["end"].is_string()
    });
    for asked in [&["logs", "staging", "web"][..], &["logs", "staging"]] {
        assert!(harness.expect(0, asked).contains("no port for me"), "{asked:?}");
    }
    let failed = harness.launchway(&["deploy", "staging"]);
    let said = support::text(&failed.stderr);
    let slot = said.rsplit_once("`launchway logs staging --slot ").expect("a hint").1;
    let slot = slot.split_once('`').expect("a verb").0;
    assert!(harness.expect(0, &["logs", "staging", "--slot", slot]).contains("no port for me"));
    harness.expect(2, &["logs", "staging", "nobody"]);
}

#[test]
fn a_first_commit_with_mistakes_is_told_as_later_ones_are() {
    let mut harness = Harness::new();
    harness.project.git(&["branch", "unrelated"]);
    let good = harness.project.launchway_yaml("{ from: [USER] }");
    harness.project.write("launchway.yaml", &good.replace("services:", "service:"));
    harness.project.git(&["commit", "-q", "-a", "--amend", "-m", "Mistaken"]);
    harness.project.git(&["branch", "-f", "unrelated"]);
    harness.start();
    harness.eventually("the commit is refused", || {
        harness.expect(0, &["status"]).contains("(branch main) was refused")
    });
    let told = harness.expect(0, &["history", "run-1"]);
    assert!(told.contains("launchway.yaml:2:1"), "{told}");
    let runs = harness.expect(0, &["history", "--json"]);
    assert!(!runs.contains("run-2"), "a branch that nobody is at is nobody's business: {runs}");
    harness.project.write("launchway.yaml", &good);
    harness.project.save("Mended");
    harness.wait_for_live("staging", "Mended");
    assert!(!harness.expect(0, &["status"]).contains("refused"), "mended is mended");
}

#[test]
fn a_rollout_that_bakes_is_rolled_back_by_the_same_verb() {
    let mut harness = Harness::new();
    harness.start();
    harness.wait_for_live("staging", "The first");
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let baking = yaml.replace("branch: main,", "branch: main, bake: { for: 10m, errors: 1% },");
    harness.project.write("launchway.yaml", &baking);
    harness.project.save("Bakes");
    harness.eventually("it bakes", || harness.expect(0, &["status", "staging"]).contains("baking"));
    assert!(harness.live("staging").is_some_and(|live| live.subject == "Bakes"));
    let shown = harness.expect(0, &["status", "staging"]);
    assert!(shown.contains("rollback   ready to r1"), "{shown}");
    let asked = |release: &str| harness.expect(0, &["deploy", "staging", release, "--no-wait"]);
    assert!(asked("r2").starts_with("ro-3 "), "the same rollout");
    assert!(asked("r1").starts_with("ro-4 "));
    let shown = harness.expect(0, &["status", "staging"]);
    let waits = "waits for ro-3 (r2, baking) to end; `launchway abort ro-3` takes it back";
    assert!(shown.contains(waits), "{shown}");
    assert!(asked("r2").starts_with("ro-5 "), "r1 would have replaced what bakes");
    harness.expect(0, &["abort", "ro-5"]);
    let back = harness.expect(0, &["rollback", "staging", "--wait", "--json"]);
    let back: serde_json::Value = serde_json::from_str(&back).expect("JSON");
    assert_eq!(back["live"], "r1");
    assert!(harness.get("staging").expect("an answer").ends_with("first r1\n"));
    harness.expect(0, &["doctor"]);

    harness.project.write("launchway.yaml", &baking.replace("10m", "1s"));
    harness.project.save("Bakes alone");
    let judged = "no requests came during its bake: nothing was judged";
    let said = harness.expect(0, &["deploy", "staging"]);
    assert_eq!(said, format!("r3 is live in staging; {judged}\n"));
    for shown in [&["status", "staging"], &["history", "staging"]] {
        assert!(harness.expect(0, shown).contains(judged), "{shown:?}");
    }
}

#[test]
fn a_release_that_fails_under_traffic_is_rolled_back_with_its_own_exit_code() {
    let mut harness = Harness::new();
    harness.start();
    let good = harness.wait_for_live("staging", "The first");
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let baking = yaml.replace("branch: main,", "branch: main, bake: { for: 10m, errors: 1% },");
    harness.project.write("launchway.yaml", &baking);
    harness.project.save("Fails for some");
    harness.eventually("it bakes", || harness.expect(0, &["status", "staging"]).contains("baking"));
    let deploy = harness.begin(&["deploy", "staging"]);
    harness.eventually("the errors are noticed", || {
        harness.get_path("staging", "/fails");
        harness.expect(0, &["history", "staging"]).contains("rolled back")
    });
    let output = deploy.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(support::text(&output.stderr).contains("the bake failed"), "{output:?}");
    assert_eq!(harness.wait_for_live("staging", "The first").pids, good.pids);
    assert!(harness.expect(0, &["status", "staging"]).contains("rolled back"));
}

#[test]
fn an_interrupted_run_is_aborted_with_a_server_and_without() {
    let mut harness = Harness::new();
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let slow = yaml.replace("run: test -s text", "run: echo working; exec sleep 300");
    harness.project.write("launchway.yaml", &slow.replace("branch: main", "branch: other"));
    harness.project.save("Slow");
    for (run, server) in [("run-1", false), ("run-2", true)] {
        if server {
            harness.start();
        }
        let child = harness.begin(&["run"]);
        let log = harness.state.join("runs").join(run).join("steps/unit/log");
        harness.eventually("the step works", || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("working"))
        });
        support::signal(child.id(), nix::sys::signal::SIGINT);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        let said = support::text(&output.stderr);
        assert!(said.contains("test/unit | working") && said.contains("aborted"), "{said}");
    }
}

#[test]
fn going_down_without_a_server_begins_nothing_and_leaves_nothing() {
    let mut harness = Harness::new();
    harness.start();
    harness.wait_for_live("staging", "The first");
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let slow =
        yaml.replace("run: test -s text", "run: echo working; setsid -f sleep 300; sleep 300");
    harness.project.write("launchway.yaml", &slow);
    harness.project.save("Slow");
    let log = harness.state.join("runs/run-2/steps/unit/log");
    harness.eventually("the step works", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("working"))
    });
    harness.kill_server();
    harness.project.commit("Never seen");
    let output = harness.launchway(&["down", "--with-data"]);
    let said = support::text(&output.stderr);
    assert!(output.status.success() && said.contains("everything is down"), "{said}");
    assert_eq!(harness.left_over(), Vec::<u32>::new(), "{said}");
    assert!(!harness.state.join("runs/run-3").exists(), "{said}");
    let history = harness.expect(0, &["history"]);
    assert!(!history.contains("run-3") && history.contains("aborted"), "{history}");
}

#[test]
fn a_server_that_is_asked_to_stop_leaves_the_traffic_alone() {
    let mut harness = Harness::new();
    harness.start();
    let live = harness.wait_for_live("staging", "The first");
    let status = harness.status();
    let address: std::net::SocketAddr =
        status["edge"]["listen"].as_str().expect("an address").parse().expect("an address");
    assert!(harness.terminate_server().success());
    assert!(harness.said().contains("goes on without the server"));
    assert!(std::net::TcpStream::connect(address).is_ok(), "the edge still listens");
    harness.start();
    assert_eq!(harness.wait_for_live("staging", "The first").pids, live.pids);
    assert_eq!(harness.status()["edge"]["listen"], status["edge"]["listen"]);
}

#[test]
fn one_environment_goes_down_and_comes_back_with_a_deployment() {
    let mut harness = Harness::new();
    let compose = "services: { web: { build: ./web }, cache: { image: 'redis:7' } }\n";
    harness.project.write("compose.yaml", compose);
    harness.project.save("With a cache");
    harness.start();
    harness.wait_for_live("staging", "With a cache");
    harness.expect(0, &["down", "staging"]);
    assert_eq!(harness.live("staging"), None);
    assert!(harness.server_runs());
    harness.expect(0, &["deploy", "staging", "r1"]);
    assert!(harness.wait_for_live("staging", "With a cache").ready);
    let output = harness.expect(0, &["exec", "staging", "web", "--", "cat", "text"]);
    assert_eq!(output, "first\n");
    harness.expect(7, &["exec", "staging", "web", "--", "sh", "-c", "exit 7"]);
    // More than all pipes on the way hold; `head` leaves most of it, and what never ends does not hold it back.
    let fed = "tea\n".repeat(500_000);
    let count = harness.feed(&fed, &["exec", "staging", "web", "--", "wc", "-l"]);
    assert_eq!(count.trim(), "500000");
    let head = harness.feed(&fed, &["exec", "staging", "web", "--", "head", "-n1"]);
    assert_eq!(head, "tea\n");
    let mut held = harness.begin_fed(&["exec", "staging", "web", "--", "true"]);
    let _open = held.stdin.take();
    assert!(held.wait().expect("it ends").success());
    let unknown: [(&[&str], &str); 7] = [
        (
            &["exec", "staging", "wep", "--", "ls"],
            "no service wep in staging; commands run beside web",
        ),
        (&["exec", "staging", "cache", "--", "ls"], "commands run beside web only"),
        (&["deploy", "stagin"], "r1 knows no environment stagin; it has staging, production"),
        (&["deploy", "stagin", "r1"], "r1 knows no environment stagin; it has staging, production"),
        (&["deploy", "stagin", "r1", "--no-wait"], "it has staging, production"),
        (&["edge", "pause", "stagin"], "the edge routes no environment stagin; it routes staging"),
        (&["edge", "resume", "stagin"], "the edge routes no environment stagin; it routes staging"),
    ];
    for (arguments, said) in unknown {
        let output = harness.launchway(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(support::text(&output.stderr).contains(said), "{arguments:?}: {output:?}");
    }
    let log = harness.expect(0, &["logs", "staging", "web"]);
    assert!(log.contains("GET / HTTP/1.1"), "{log}");
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut follower = harness.begin(&["logs", "staging", "web", "-f"]);
        // Once it shows something, it follows.
        let mut shown = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
        shown.next().expect("a line").expect("readable");
        support::signal(follower.id(), signal);
        assert_eq!(follower.wait().expect("it ends").code(), Some(code));
    }
    let log = harness.expect(0, &["logs", "run-1", "unit"]);
    assert!(!log.contains("error"), "{log}");
    harness.expect(2, &["logs", "staging", "nothing-like-it"]);
}

#[test]
fn without_a_server_a_commit_is_built_all_the_same() {
    let harness = Harness::new();
    let built = harness.expect(0, &["run"]);
    assert!(built.contains("is green"), "{built}");
    let again = harness.launchway(&["run"]);
    assert!(support::text(&again.stderr).contains("test/unit: reused from run-1"), "{again:?}");
    harness.project.commit("changed");
    harness.expect(0, &["run"]);
    let why = harness.expect(0, &["history", "run-3", "--why", "unit"]);
    assert!(why.contains("file changed: web/text"), "{why}");
    harness.project.write("launchway.yaml", "app: tiny\nservice: {}\n");
    harness.project.save("Mistaken");
    harness.expect(2, &["run"]);
    harness.expect(2, &["run", "--deploy", "staging"]);
    harness.expect(2, &["run", "no-such-branch"]);
}

#[test]
fn a_command_beside_a_service_is_heard_as_it_speaks_and_ends_with_whoever_listens() {
    let mut harness = Harness::new();
    harness.start();
    harness.wait_for_live("staging", "The first");
    let exec = |script: &'static str| ["exec", "staging", "web", "--", "sh", "-c", script];
    let said = harness.launchway(&exec("printf 'a\\377\\0'; printf b >&2; exit 7"));
    assert_eq!(
        (said.status.code(), &*said.stdout, &*said.stderr),
        (Some(7), &b"a\xff\0"[..], &b"b"[..])
    );

    harness.expect(137, &exec("kill -9 $$"));

    // Ended by a signal, while it still has something to say to a command that does not listen.
    let (mut told, pid) = begun(&harness, &exec("echo $$; exec sleep 777"));
    let mut stdin = told.stdin.take().expect("a pipe");
    let talking = std::thread::spawn(move || while stdin.write_all(&[b'y'; 4096]).is_ok() {});
    support::signal(told.id(), Signal::SIGTERM);
    told.wait().expect("it ends");
    talking.join().expect("nobody listens");
    harness.eventually("the command is gone", || !runs(pid));

    // Whoever reads it has read enough.
    let (mut unheard, pid) = begun(&harness, &exec("echo $$; exec yes"));
    assert_eq!(unheard.wait().expect("it ends").code(), Some(141));
    harness.eventually("the command is gone", || !runs(pid));

    let (mut left, pid) = begun(&harness, &exec("echo $$; exec sleep 777"));
    harness.kill_server();
    harness.eventually("the command is gone", || !runs(pid));
    assert_eq!(left.wait().expect("it ends").code(), Some(1));
    harness.start();
    harness.expect(0, &["down"]);
    harness.server_ended();
}

/// A verb and the first line it says: the pid of its command. Nobody reads the rest.
fn begun(harness: &Harness, arguments: &[&str]) -> (Child, u32) {
    let mut child = harness.begin_fed(arguments);
    let mut line = String::new();
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    (child, line.trim().parse().expect("a pid"))
}

fn runs(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}
