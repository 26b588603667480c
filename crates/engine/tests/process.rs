//! What only an engine of real processes can be asked: crashes, kills, adoption, users, ports.

mod common;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use common::*;
use domain::slot::{Color, Exit, Launch, Location, ReplicaState, ReplicaStatus};
use engine::process::Unprivileged;
use engine::{Engine, LogSource, Phase, Said, Streams};

fn exited(status: &ReplicaStatus) -> bool {
    matches!(status.state, ReplicaState::Exited { .. })
}

/// The supervisor of a process: with it as subreaper, the parent.
fn parent(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let rest = stat.rsplit_once(')').unwrap().1;
    rest.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_new_engine_adopts_everything_and_starts_nothing() {
    let home = Home::new();
    let engine = home.engine();
    let mut web = service(&home, "web", SERVE);
    web.replicas = 2;
    let mut front = service(&home, "front", "");
    front.launch = Launch::Static("dist".into());
    let spec = slot(Color::Blue, 1, vec![web, front]);
    engine.apply(&spec).await.unwrap();
    let redis = backing("sessions", "redis:7-alpine");
    let address = engine.back(&redis).await.unwrap();
    let before = until_slot_ready(&engine, Color::Blue).await;
    let shims = home.shims();
    drop(engine);

    let engine = home.engine();
    assert_eq!(until_slot_ready(&engine, Color::Blue).await, before);
    engine.apply(&spec).await.unwrap();
    assert_eq!(engine.back(&redis).await.unwrap(), address);
    assert_eq!(until_slot_ready(&engine, Color::Blue).await, before);
    assert_eq!(home.shims(), shims);
    engine.down(&staging(), true).await.unwrap();
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_killed_replica_is_started_again_at_the_same_port() {
    let home = Home::new();
    let engine = home.engine();
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", SERVE)])).await.unwrap();
    let first = until_ready(&engine, Color::Blue, "web").await;
    kill(first.pid.unwrap(), "KILL");
    let ready = |s: &ReplicaStatus| s.state == ReplicaState::Ready && s.pid != first.pid;
    let second = until(&engine, Color::Blue, "web", ready).await;
    assert_eq!((first.restarts, second.restarts), (0, 1));
    assert_eq!(first.endpoint, second.endpoint);
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_killed_shim_takes_its_replica_along_and_both_come_back_once() {
    let home = Home::new();
    let engine = home.engine();
    // The server is a grandchild: the kernel kills the shell only.
    let web = service(&home, "web", &format!("{SERVE} & wait"));
    let spec = slot(Color::Blue, 1, vec![web]);
    engine.apply(&spec).await.unwrap();
    let first = until_ready(&engine, Color::Blue, "web").await;
    let old = home.processes();
    assert_eq!(old.len(), 2);
    kill(parent(first.pid.unwrap()), "KILL");
    eventually("the shim is gone", || home.shims().is_empty()).await;
    let ready = |s: &ReplicaStatus| s.state == ReplicaState::Ready && s.pid != first.pid;
    let second = until(&engine, Color::Blue, "web", ready).await;
    assert!(old.iter().all(|pid| !alive(*pid)), "something of before still runs");
    assert_eq!((home.shims().len(), home.processes().len()), (1, 2));
    assert_eq!((second.restarts, &second.endpoint), (1, &first.endpoint));
    assert_eq!(second.ends.as_ref().and_then(|ends| ends.exit), Some(Exit::Unknown));
    engine.apply(&spec).await.unwrap();
    assert_eq!(until_ready(&engine, Color::Blue, "web").await, second);
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn engines_that_start_the_same_slot_at_once_start_it_once() {
    let home = Home::new();
    let (one, two) = (home.engine(), home.engine());
    let spec = slot(Color::Blue, 1, vec![service(&home, "web", &format!("exec {SERVE}"))]);
    let _ = tokio::join!(one.apply(&spec), two.apply(&spec));
    one.apply(&spec).await.unwrap();
    two.apply(&spec).await.unwrap();
    until_ready(&one, Color::Blue, "web").await;
    assert_eq!((home.shims().len(), home.processes().len()), (1, 1));
    one.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed_after_its_grace_with_all_its_children() {
    let home = Home::new();
    let engine = home.engine();
    let stubborn = "trap '' TERM; setsid sleep 300 & sleep 300 & while :; do sleep 1; done";
    let mut web = service(&home, "web", stubborn);
    web.stop_grace = Duration::from_millis(300);
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    eventually("all have started", || home.processes().len() >= 3).await;
    let all = home.processes();
    engine.remove(&staging(), Color::Blue).await.unwrap();
    assert!(all.iter().all(|pid| !alive(*pid)));
    assert_eq!((home.shims().len(), home.processes().len()), (0, 0));
}

#[tokio::test]
async fn stopping_waits_for_the_server_behind_the_shell() {
    let home = Home::new();
    let engine = home.engine();
    let done = home.scratch().join("done");
    let polite = format!(
        "sh -c 'trap \"sleep 0.3; touch {}; exit 0\" TERM; echo up; while :; do sleep 0.05; done'; true",
        done.display()
    );
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", &polite)])).await.unwrap();
    let source = LogSource::Replica { slot: Color::Blue, service: name("web"), index: 0 };
    while engine.logs(&staging(), &source, 1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine.remove(&staging(), Color::Blue).await.unwrap();
    assert!(done.exists(), "the server was killed before it had finished");
    assert_eq!(engine.logs(&staging(), &source, 9).await.unwrap()[0], "up", "logs stay");
}

#[tokio::test]
async fn a_replica_whose_port_a_stranger_took_gets_another_and_is_never_taken_for_the_stranger() {
    let home = Home::new();
    let engine = home.engine();
    // Fails once, so that there is a moment to take its port.
    let flag = home.scratch().join("go");
    let command = format!("test -e {} || exit 9; exec {SERVE}", flag.display());
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", &command)])).await.unwrap();
    let first = until(&engine, Color::Blue, "web", exited).await;
    let _stranger = TcpListener::bind(("127.0.0.1", port(&first))).unwrap();
    fs::write(&flag, "").unwrap();
    let second = until_ready(&engine, Color::Blue, "web").await;
    assert_ne!(port(&first), port(&second));
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn an_answer_from_a_stranger_does_not_make_a_replica_ready() {
    let home = Home::new();
    let engine = home.engine();
    let mut web = service(&home, "web", "sleep 300");
    web.health.probe = domain::slot::Probe::Tcp;
    engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let status = replica(&engine, Color::Blue, "web", 0).await;
    let _stranger = TcpListener::bind(("127.0.0.1", port(&status))).unwrap();
    let seen = until(&engine, Color::Blue, "web", |s| match &s.state {
        ReplicaState::Starting { transcript } => {
            transcript.iter().any(|record| record.answer.contains("not of this replica"))
        }
        other => panic!("{other:?}"),
    });
    seen.await;
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_replica_sees_its_own_environment_and_little_of_the_engines() {
    let home = Home::new();
    let engine = home.engine();
    let mut web = service(&home, "web", "env; pwd; sleep 300");
    web.env.insert("SECRET_TEA".into(), "gyokuro".into());
    engine.apply(&slot(Color::Green, 4, vec![web])).await.unwrap();
    let source = LogSource::Replica { slot: Color::Green, service: name("web"), index: 0 };
    let mut lines = Vec::new();
    while !lines.contains(&home.artifact().to_string_lossy().into_owned()) {
        lines = engine.logs(&staging(), &source, 100).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let port = port(&replica(&engine, Color::Green, "web", 0).await);
    let state = home.path().join("state/home");
    for wanted in [
        "SECRET_TEA=gyokuro".to_owned(),
        format!("PORT={port}"),
        format!("HOME={}", state.display()),
        "LAUNCHWAY_RELEASE=r4".into(),
        "LAUNCHWAY_SLOT=green".into(),
    ] {
        assert!(lines.contains(&wanted), "{wanted} is missing in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("CARGO")), "{lines:?}");
    let script = "echo $SECRET_TEA $PORT; pwd; id -u; echo no >/dev/stderr; exit 4";
    let said = exec(&engine, Color::Green, &["sh", "-c", script], nothing()).await.unwrap();
    let user = Unprivileged::detect().unwrap();
    let uid = user.map_or(nix::unistd::geteuid().as_raw(), |user| user.uid);
    let expected = format!("gyokuro {port}\n{}\n{uid}\n", home.artifact().display());
    assert_eq!((said.exit, said.text()), (Exit::Code(4), expected.as_str()));
    assert_eq!(said.errors, "no\n");
    for pid in home.shims().into_iter().chain(home.processes()) {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&title).contains("gyokuro"));
    }
    let spec = home.path().join("state/environments/staging/units/green.web.0/spec.json");
    assert_eq!(fs::metadata(spec).unwrap().mode() & 0o777, 0o600);
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_command_beside_a_replica_that_does_not_exist_is_not_found_rather_than_forbidden() {
    let home = Home::new();
    let engine = home.engine();
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", "sleep 300")])).await.unwrap();
    let said = exec(&engine, Color::Blue, &["nosuchtool"], nothing()).await.unwrap();
    assert_eq!(said.exit, Exit::Code(127));
    assert!(said.errors.contains("No such file"), "{}", said.errors);
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commands_that_run_side_by_side_end_each_with_its_own_status() {
    let home = Home::new();
    let engine = std::sync::Arc::new(home.engine());
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", "sleep 300")])).await.unwrap();
    let lanes = (0..8).map(|lane| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for round in 0..8 {
                let script = format!("echo {lane} {round}; exit 4");
                let command = ["sh", "-c", &script];
                let ran = exec(&*engine, Color::Blue, &command, nothing()).await.unwrap();
                let said = format!("{lane} {round}\n");
                assert_eq!((ran.exit, ran.text()), (Exit::Code(4), said.as_str()));
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.unwrap();
    }
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_command_that_nobody_listens_to_any_more_is_stopped() {
    let home = Home::new();
    let engine = home.engine();
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", SERVE)])).await.unwrap();
    // While a process is on its way from the shell to its command it shows no environment.
    until_ready(&engine, Color::Blue, "web").await;
    let before = home.processes();
    let command = ["sh", "-c", "echo begun; sleep 777"].map(str::to_owned);
    let (output, mut said) = tokio::sync::mpsc::channel(1);
    let streams = Streams { input: Box::new(tokio::io::repeat(b'y')), output };
    let (place, web) = (staging(), name("web"));
    let running = engine.exec(&place, Color::Blue, &web, &command, streams);
    let listening = async {
        assert_eq!(said.recv().await, Some(Said::Output("begun\n".into())));
        drop(said);
    };
    let (exit, ()) = tokio::join!(running, listening);
    assert!(exit.unwrap_err().to_string().contains("went away"));
    eventually("the command is gone", || home.processes() == before).await;

    // Nor one whose caller is gone altogether.
    let (output, mut said) = tokio::sync::mpsc::channel(1);
    let streams = Streams { input: nothing(), output };
    let mut running = Box::pin(engine.exec(&place, Color::Blue, &web, &command, streams));
    tokio::select! {
        exit = &mut running => panic!("{exit:?}"),
        said = said.recv() => assert_eq!(said, Some(Said::Output("begun\n".into()))),
    }
    drop(running);
    eventually("the command is gone", || home.processes() == before).await;
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_users_runs_as_root() {
    let home = Home::new();
    let engine = home.engine();
    let outcome = engine.run(&job(&home, "who", "id -u; id -G")).await.unwrap();
    assert!(outcome.exit.success(), "{outcome:?}");
    assert!(outcome.tail.iter().all(|ids| ids.split(' ').all(|id| id != "0")), "{outcome:?}");
}

#[tokio::test]
async fn a_folder_that_the_user_cannot_enter_is_refused_with_its_name() {
    let Some(_user) = Unprivileged::detect().unwrap() else { return };
    let home = Home::new();
    let closed = home.path().join("closed");
    fs::create_dir_all(closed.join("inner")).unwrap();
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut web = service(&home, "web", SERVE);
    web.artifact.location = Location::Folder(closed.join("inner"));
    let error = home.engine().apply(&slot(Color::Blue, 1, vec![web])).await.unwrap_err();
    assert!(error.why.contains(closed.to_str().unwrap()) && error.why.contains("chmod"), "{error}");
}

#[tokio::test]
async fn a_static_service_without_files_is_not_ready_and_says_why() {
    let home = Home::new();
    let engine = home.engine();
    let mut front = service(&home, "front", "");
    front.launch = Launch::Static("missing".into());
    engine.apply(&slot(Color::Blue, 1, vec![front])).await.unwrap();
    let status = replica(&engine, Color::Blue, "front", 0).await;
    let ReplicaState::Exited { tail, .. } = status.state else { panic!("{status:?}") };
    assert!(tail[0].contains("missing"), "{tail:?}");
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_told_in_the_tail() {
    let home = Home::new();
    let engine = home.engine();
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", "uvicorm main")])).await.unwrap();
    let status = until(&engine, Color::Blue, "web", exited).await;
    let ReplicaState::Exited { exit, tail } = status.state else { unreachable!() };
    assert_eq!(exit, Exit::Code(127));
    assert!(tail.iter().any(|line| line.contains("uvicorm")), "{tail:?}");
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn a_job_goes_on_without_its_engine_and_runs_once() {
    let home = Home::new();
    let ran = home.scratch().join("ran");
    let command = format!("echo once >> {}; sleep 0.5; echo done", ran.display());
    let migrate = job(&home, "migrate", &command);
    let engine = home.engine();
    let asked = migrate.clone();
    let running = tokio::spawn(async move { engine.run(&asked).await });
    eventually("the job has begun", || ran.exists()).await;
    running.abort();
    let outcome = home.engine().run(&migrate).await.unwrap();
    assert_eq!((outcome.exit, outcome.tail.as_slice()), (Exit::Code(0), &["done".to_owned()][..]));
    assert_eq!(fs::read_to_string(ran).unwrap(), "once\n");
}

#[tokio::test]
async fn a_job_whose_shim_was_killed_ended_unseen_and_does_not_run_again() {
    let home = Home::new();
    let engine = home.engine();
    let ran = home.scratch().join("ran");
    let command = format!("echo once >> {}; sleep 300 & sleep 300", ran.display());
    let migrate = job(&home, "migrate", &command);
    let kill_shim = async {
        eventually("the job has begun", || ran.exists()).await;
        kill(home.shims()[0], "KILL");
    };
    let outcome = tokio::join!(engine.run(&migrate), kill_shim).0.unwrap();
    assert_eq!(outcome.exit, Exit::Unknown);
    assert_eq!(home.processes(), Vec::<u32>::new(), "what was left is swept up");
    assert_eq!(engine.run(&migrate).await.unwrap(), outcome);
    assert_eq!(fs::read_to_string(ran).unwrap(), "once\n");
}

#[tokio::test]
async fn a_job_over_its_limit_ends_at_once_if_nothing_of_it_ignores_sigterm() {
    let home = Home::new();
    let engine = home.engine();
    let commands = [
        "sleep 300",
        "sh -c 'sleep 300 & sleep 300; true'; true",
        "timeout 300 sh -c 'sleep 300; true'; true",
        "setsid sh -c 'sleep 300 & sleep 300; true' & sleep 300",
    ];
    for (id, command) in ["one", "two", "three", "four"].into_iter().zip(commands) {
        let mut slow = job(&home, id, command);
        slow.time_limit = Duration::from_millis(500);
        let outcome = engine.run(&slow).await.unwrap();
        assert_eq!(outcome.exit, Exit::TimedOut);
        let took = outcome.finished.as_millis() - outcome.started.as_millis();
        assert!(took < 4000, "`{command}` took {took} ms: the whole grace was waited for");
    }
}

#[tokio::test]
async fn evidence_of_a_release_in_a_reused_slot_holds_nothing_of_the_release_before() {
    let home = Home::new();
    let engine = home.engine();
    let source = LogSource::Replica { slot: Color::Blue, service: name("web"), index: 0 };
    let release = |n, command| slot(Color::Blue, n, vec![service(&home, "web", command)]);
    engine.apply(&release(1, "echo mode redir; exit 3")).await.unwrap();
    until(&engine, Color::Blue, "web", exited).await;
    engine.remove(&staging(), Color::Blue).await.unwrap();
    engine.apply(&release(2, "echo mode sick; exit 4")).await.unwrap();
    let status = until(&engine, Color::Blue, "web", exited).await;
    let ReplicaState::Exited { exit, tail } = status.state else { unreachable!() };
    assert_eq!(exit, Exit::Code(4));
    let logs = engine.logs(&staging(), &source, 100).await.unwrap();
    for line in tail.iter().chain(&logs) {
        assert_eq!(line, "mode sick");
    }
    engine.down(&staging(), true).await.unwrap();
}

#[tokio::test]
async fn jobs_with_one_lock_never_overlap() {
    let home = Home::new();
    let engine = home.engine();
    let inside = home.scratch().join("inside");
    let command = format!("mkdir {0} && sleep 0.2 && rmdir {0}", inside.display());
    let jobs = (0..3).map(|n| {
        let mut job = job(&home, &format!("job-{n}"), &command);
        job.lock = Some("migrations".into());
        job
    });
    let mut running = tokio::task::JoinSet::new();
    for job in jobs {
        let engine = engine.clone();
        running.spawn(async move { engine.run(&job).await.unwrap() });
    }
    while let Some(outcome) = running.join_next().await {
        let outcome = outcome.unwrap();
        assert_eq!(outcome.exit, Exit::Code(0), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_lock_whose_holder_was_killed_is_free_once_nothing_of_it_runs() {
    let home = Home::new();
    let engine = home.engine();
    let pid_file = home.scratch().join("pid");
    let mut first =
        job(&home, "first", &format!("sleep 300 & echo $! > {}; wait", pid_file.display()));
    first.lock = Some("migrations".into());
    let asked = (engine.clone(), first.clone());
    let abandoned = tokio::spawn(async move { asked.0.run(&asked.1).await });
    let written = || fs::read_to_string(&pid_file).is_ok_and(|text| text.ends_with('\n'));
    eventually("the first job has begun", written).await;
    abandoned.abort();
    let _ = abandoned.await;
    let orphan: u32 = fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
    kill(home.shims()[0], "KILL");
    let mut second = job(&home, "second", &format!("! grep 'State:.[RSD]' /proc/{orphan}/status"));
    second.lock = Some("migrations".into());
    let outcome = engine.run(&second).await.unwrap();
    assert!(outcome.exit.success(), "the orphan still ran: {outcome:?}");
}

#[tokio::test]
async fn the_output_of_a_job_can_be_followed_in_a_file() {
    let home = Home::new();
    let log = home.scratch().join("step.log");
    fs::write(&log, "before\n").unwrap();
    let mut step = job(&home, "step", "echo out; echo err >&2");
    step.log = Some(log.clone());
    let outcome = home.engine().run(&step).await.unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "before\nout\nerr\n");
    assert_eq!(outcome.tail, ["before", "out", "err"]);
    let source = LogSource::Job { id: "step".into() };
    assert_eq!(home.engine().logs(&staging(), &source, 2).await.unwrap(), ["out", "err"]);
}

#[tokio::test]
async fn a_supervised_program_is_kept_adopted_and_stopped() {
    let home = Home::new();
    let engine = home.engine();
    let command = |seconds: &str| vec!["sleep".into(), seconds.into()];
    engine.supervise("edge", command("300"), [].into(), false).await.unwrap();
    let first = engine.supervised("edge").await.unwrap();
    assert_eq!(first.phase, Phase::Running);
    let other = home.engine();
    other.supervise("edge", command("300"), [].into(), false).await.unwrap();
    assert_eq!(other.supervised("edge").await.unwrap(), first);
    other.supervise("edge", command("301"), [].into(), false).await.unwrap();
    assert_ne!(other.supervised("edge").await.unwrap().child, first.child);
    other.stop_supervised("edge").await.unwrap();
    assert_eq!(other.supervised("edge").await, None);
    assert_eq!(home.processes(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_chatty_replica_keeps_a_bounded_log() {
    let home = Home::new();
    let engine = home.engine();
    let chatty = "i=0; while [ $i -lt 40 ]; do head -c 1000000 /dev/zero | tr '\\0' x | fold -w 99; i=$((i+1)); done; echo; echo end; sleep 300";
    engine.apply(&slot(Color::Blue, 1, vec![service(&home, "web", chatty)])).await.unwrap();
    let source = LogSource::Replica { slot: Color::Blue, service: name("web"), index: 0 };
    while engine.logs(&staging(), &source, 1).await.unwrap() != ["end"] {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let folder = home.path().join("state/environments/staging/units/blue.web.0");
    let size = |entry: fs::DirEntry| entry.metadata().unwrap().len();
    let total: u64 = fs::read_dir(folder).unwrap().map(|entry| size(entry.unwrap())).sum();
    assert!(total < 20 << 20, "{total} bytes");
    engine.down(&staging(), true).await.unwrap();
}
