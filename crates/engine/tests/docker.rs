//! What only an engine of containers can show: the Engine itself goes away, memory runs out, images are missing,
//! volumes stay, and installations on one machine keep off each other.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bollard::query_parameters::{InspectContainerOptions, RemoveContainerOptionsBuilder};
use common::docker::{SERVE_INSIDE, World, environment};
use common::*;
use domain::container::{Container, Healthcheck, Mount, Source};
use domain::slot::{
    BackingSpec, Color, Endpoint, Exit, Location, Probe, ReplicaState, ReplicaStatus, SlotSpec,
};
use domain::units::Size;
use engine::{DockerConfig, DockerEngine, Engine, LogSource, Said, Streams};

/// A world on the machine's Engine, or the end of the test.
macro_rules! world {
    () => {
        match World::new().await {
            Some(world) => world,
            None => return,
        }
    };
}

fn healthcheck(command: &str) -> Option<Healthcheck> {
    let second = Some(Duration::from_secs(1));
    Some(Healthcheck {
        test: vec!["CMD-SHELL".into(), command.into()],
        interval: second,
        timeout: second,
        start_period: None,
        start_interval: None,
        retries: Some(1),
    })
}

fn address(status: &ReplicaStatus) -> std::net::SocketAddr {
    match status.endpoint {
        Endpoint::Http(address) => address,
        ref other => panic!("{other:?} is no address"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_published_on_this_machine_only() {
    let world = world!();
    let web = world.service("web", SERVE_INSIDE);
    world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    until_ready(&world.engine, Color::Blue, "web").await;
    let name = &world.containers().await[0];
    let name = name.trim_start_matches('/');
    let found =
        world.docker.inspect_container(name, None::<InspectContainerOptions>).await.unwrap();
    let ports = found.network_settings.unwrap().ports.unwrap();
    let bound = ports["8000/tcp"].as_ref().unwrap();
    assert!(bound.iter().all(|b| b.host_ip.as_deref() == Some("127.0.0.1")), "{bound:?}");
    let port: u16 = bound[0].host_port.as_ref().unwrap().parse().unwrap();
    assert_eq!(get(([127, 0, 0, 1], port).into()).await.unwrap(), "tea");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_killed_while_no_server_runs_comes_back_by_itself() {
    let world = world!();
    let web = world.service("web", SERVE_INSIDE);
    world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let first = until_ready(&world.engine, Color::Blue, "web").await;
    kill(first.pid.unwrap(), "KILL");
    let deadline = Instant::now() + PATIENCE;
    // Nobody looks: only its address is asked.
    while alive(first.pid.unwrap()) || get(address(&first)).await.is_err() {
        assert!(Instant::now() < deadline, "it did not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_enough_memory_is_named_as_such() {
    let world = world!();
    let mut container = world.container("exec python3 -c 'x = bytearray(256 << 20)'");
    container.limits.memory = Some(Size(64 << 20));
    let web = world.service_of("web", container);
    world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let exited = |s: &ReplicaStatus| matches!(s.state, ReplicaState::Exited { .. });
    let status = until(&world.engine, Color::Blue, "web", exited).await;
    let ReplicaState::Exited { exit, .. } = status.state else { unreachable!() };
    assert_eq!(exit, Exit::OutOfMemory { limit: Some(64 << 20) });
    assert_eq!(exit.to_string(), "killed for lack of memory (limit 64MiB)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_healthcheck_of_the_container_is_seen_with_what_it_said() {
    let world = world!();
    let mut container = world.container(SERVE_INSIDE);
    let sick = world.home.sick();
    let check = format!("test ! -e {} || {{ echo the kettle is cold; exit 3; }}", sick.display());
    container.healthcheck = healthcheck(&check);
    let mut web = world.service_of("web", container);
    // Without a path of its own the service is asked by a connection, which says little.
    web.health.probe = Probe::Tcp;
    fs::write(&sick, "").unwrap();
    world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    let refused = |status: &ReplicaStatus| match &status.state {
        ReplicaState::Starting { transcript } => {
            transcript.iter().any(|r| r.answer == "exit status 3: the kettle is cold")
        }
        other => panic!("{other:?}"),
    };
    until(&world.engine, Color::Blue, "web", refused).await;
    fs::remove_file(&sick).unwrap();
    until_ready(&world.engine, Color::Blue, "web").await;
    fs::write(&sick, "").unwrap();
    let bad = |s: &ReplicaStatus| matches!(s.state, ReplicaState::Unready { .. });
    let status = until(&world.engine, Color::Blue, "web", bad).await;
    let ReplicaState::Unready { transcript } = status.state else { unreachable!() };
    let last = transcript.last().unwrap();
    assert_eq!(last.request, "the container's healthcheck");
    assert_eq!(last.answer, "exit status 3: the kettle is cold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_had_is_named_with_the_way_out() {
    let world = world!();
    let mut web = world.service("web", SERVE_INSIDE);
    web.artifact.digest = domain::Digest::of("never built");
    let image = "teahouse/web:0123456".to_owned();
    web.artifact.location = Location::Image { image, pushed: None };
    let error = world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap_err();
    assert!(error.why.contains("teahouse/web:0123456"), "{error}");
    assert!(error.why.contains("build the release again"), "{error}");

    let none = world.backing("db", "127.0.0.1:1/no/such-image:7");
    let error = world.engine.back(&none).await.unwrap_err();
    assert!(
        error.why.contains("the image 127.0.0.1:1/no/such-image:7 cannot be pulled"),
        "{error}"
    );
    assert!(error.why.contains("docker login"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_with_several_ports_or_none_is_asked_which() {
    let world = world!();
    let mut container = world.container(SERVE_INSIDE);
    container.answers_at = None;
    let web = world.service_of("web", container.clone());
    let error = world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap_err();
    assert!(error.why.contains("web: ") && error.why.contains("`port:`"), "{error}");
    container.expose = vec![8000, 9000];
    let web = world.service_of("web", container);
    let error = world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap_err();
    assert!(error.why.contains("8000, 9000"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_and_configs_are_files_that_inspect_does_not_show() {
    let world = world!();
    let mut container = world.container(&format!("id -u; cat /run/secrets/key; {SERVE_INSIDE}"));
    container.user = Some("1234:1234".into());
    container.read_only = true;
    let text = |text: &str, mode| Source::Text {
        text: text.into(),
        mode: Some(mode),
        uid: Some(1234),
        gid: Some(1234),
    };
    let at = |target: &str, source| Mount { source, target: target.into(), read_only: true };
    container.mounts.push(at("/run/secrets/key", text("gyokuro-7\n", 0o400)));
    let web = world.service_of("web", container);
    world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
    until_ready(&world.engine, Color::Blue, "web").await;
    let source = LogSource::Replica { slot: Color::Blue, service: name("web"), index: 0 };
    let log = world.engine.logs(&staging(), &source, 10).await.unwrap();
    assert_eq!(log, ["1234", "gyokuro-7", "serving"]);
    let container = world.containers().await[0].trim_start_matches('/').to_owned();
    let found = world.docker.inspect_container(&container, None::<InspectContainerOptions>).await;
    let shown = serde_json::to_string(&found.unwrap()).unwrap();
    assert!(!shown.contains("gyokuro"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_removed_comes_back_and_what_nobody_asked_for_goes() {
    let world = world!();
    let web = world.service("web", SERVE_INSIDE);
    let spec = slot(Color::Blue, 1, vec![web.clone()]);
    world.engine.apply(&spec).await.unwrap();
    let first = until_ready(&world.engine, Color::Blue, "web").await;
    let force = RemoveContainerOptionsBuilder::new().force(true).build();
    let name = world.containers().await[0].trim_start_matches('/').to_owned();
    world.docker.remove_container(&name, Some(force)).await.unwrap();
    let second = until_ready(&world.engine, Color::Blue, "web").await;
    assert_ne!(second.pid, first.pid);

    // As after a record that was lost: a slot runs that nobody knows of.
    world.engine.apply(&slot(Color::Green, 2, vec![web])).await.unwrap();
    until_ready(&world.engine, Color::Green, "web").await;
    let record = world.home.path().join("state/docker/staging/slots/green.json");
    fs::remove_file(record).unwrap();
    let snapshot = world.again().observe(&staging()).await.unwrap();
    assert_eq!(snapshot.slots.keys().collect::<Vec<_>>(), [&Color::Blue]);
    assert_eq!(world.containers().await.len(), 1, "the orphan is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_environments_and_two_installations_do_not_see_each_other() {
    let (one, two) = (world!(), world!());
    let blue = |world: &World, place: &str| SlotSpec {
        environment: environment(place),
        ..slot(Color::Blue, 1, vec![world.service("web", SERVE_INSIDE)])
    };
    for (world, place) in [(&one, "staging"), (&one, "production"), (&two, "staging")] {
        world.engine.apply(&blue(world, place)).await.unwrap();
    }
    assert_eq!((one.containers().await.len(), two.containers().await.len()), (2, 1));
    let first = until_ready(&one.engine, Color::Blue, "web").await;
    let other = until_ready(&two.engine, Color::Blue, "web").await;
    assert_ne!(first.endpoint, other.endpoint);
    two.engine.down(&staging(), true).await.unwrap();
    one.engine.down(&environment("production"), true).await.unwrap();
    assert_eq!(replica(&one.engine, Color::Blue, "web", 0).await, first, "it is undisturbed");
    // `web` of one environment is no name in another.
    let asked = ["python3", "-c", "import socket; socket.gethostbyname('web')"];
    let alone = exec(&one.engine, Color::Blue, &asked, nothing()).await.unwrap();
    assert_eq!(alone.exit, Exit::Code(0), "{}", alone.errors);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_nobody_listens_to_any_more_is_stopped() {
    let world = world!();
    let engine = &world.engine;
    engine.apply(&slot(Color::Blue, 1, vec![world.service("web", SERVE_INSIDE)])).await.unwrap();
    until_ready(engine, Color::Blue, "web").await;
    // No other process sleeps as long as this one.
    let seconds = (800_000 + std::process::id()).to_string();
    let sleeps = || {
        let wanted = ["sleep", &seconds, ""].join("\0").into_bytes();
        pids().any(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted))
    };
    let command = ["sh", "-c", &format!("echo begun; sleep {seconds}")].map(str::to_owned);
    let (output, mut said) = tokio::sync::mpsc::channel(1);
    let streams = Streams { input: nothing(), output };
    let (place, web) = (staging(), name("web"));
    let running = engine.exec(&place, Color::Blue, &web, &command, streams);
    let listening = async {
        assert_eq!(said.recv().await, Some(Said::Output("begun\n".into())));
        eventually("it sleeps", sleeps).await;
        drop(said);
    };
    let (exit, ()) = tokio::join!(running, listening);
    assert!(exit.unwrap_err().to_string().contains("went away"));
    eventually("it is gone", || !sleeps()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_reach_their_own_services_and_share_the_backing_ones() {
    let world = world!();
    let engine = &world.engine;
    let redis = world.backing("redis", "redis:7-alpine");
    engine.back(&redis).await.unwrap();
    for (color, release) in [(Color::Blue, 1), (Color::Green, 2)] {
        let mut api = world.service("api", SERVE_INSIDE);
        api.env.insert("BODY".into(), color.to_string());
        let web = world.service("web", SERVE_INSIDE);
        engine.apply(&slot(color, release, vec![web, api])).await.unwrap();
        until_slot_ready(engine, color).await;
    }
    let asked = "import urllib.request as r, socket; print(r.urlopen('http://api:8000').read().decode()); \
                 s = socket.create_connection(('redis', 6379)); s.sendall(b'PING\\r\\n'); print(s.recv(9).decode())";
    let asked = ["python3", "-c", asked];
    for color in [Color::Blue, Color::Green] {
        let ran = exec(engine, color, &asked, nothing()).await.unwrap();
        let said = ran.text();
        assert!(said.contains(color.as_str()) && said.contains("+PONG"), "{color}: {said}");
    }
    let status = engine.observe(&staging()).await.unwrap().backing[&name("redis")].clone();
    assert_eq!(status.inside, Some(("redis".into(), 6379)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_survive_everything_but_a_down_with_data() {
    let world = world!();
    let engine = &world.engine;
    let mut spec = world.backing("sessions", "redis:7-alpine");
    spec.container = Some(Box::new(Container {
        command: Some(["redis-server", "--appendonly", "yes"].map(str::to_owned).into()),
        ..Container::default()
    }));
    let first = engine.back(&spec).await.unwrap();
    assert_eq!(redis(first, "SET tea sencha").await, "+OK");
    assert_eq!(engine.back(&spec).await.unwrap(), first);

    // The image says VOLUME /data, the file names no volume: it has a name all the same.
    let volumes = world.volumes().await;
    assert!(volumes[0].starts_with("teahouse-staging_sessions-data"), "{volumes:?}");
    // Another container of it, with another setting.
    let container = spec.container.as_mut().unwrap();
    container.command.as_mut().unwrap().extend(["--appendfsync".into(), "always".into()]);
    assert_eq!(engine.back(&spec).await.unwrap(), first, "it keeps its port");
    assert_eq!(redis(first, "GET tea").await, "$6");
    engine.down(&staging(), false).await.unwrap();
    assert!(engine.observe(&staging()).await.unwrap().backing.is_empty());
    assert_eq!(world.containers().await, Vec::<String>::new());
    let again = world.again();
    assert_eq!(again.back(&spec).await.unwrap(), first);
    assert_eq!(redis(first, "GET tea").await, "$6");
    again.down(&staging(), true).await.unwrap();
    assert_eq!(world.volumes().await, Vec::<String>::new());
    assert_eq!(world.networks().await, Vec::<String>::new());
}

fn postgres(world: &World) -> BackingSpec {
    let mut spec = world.backing("postgres", "postgres:16-alpine");
    let check = healthcheck("pg_isready -U tea -d teahouse");
    spec.container = Some(Box::new(Container { healthcheck: check, ..Container::default() }));
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_data_are_loaded_once_and_a_failed_load_leaves_nothing() {
    let world = world!();
    let engine = &world.engine;
    let file = world.home.path().join("test.sql");
    let table = "create table teas (name text); insert into teas values ('sencha');";
    fs::write(&file, format!("{table} select 1/0;")).unwrap();
    let spec = BackingSpec { load: Some(file.clone()), ..postgres(&world) };
    let error = engine.back(&spec).await.unwrap_err();
    assert!(error.why.contains("division by zero"), "{error}");
    assert_eq!(world.volumes().await, Vec::<String>::new());

    fs::write(&file, table).unwrap();
    engine.back(&spec).await.unwrap();
    fs::remove_file(&file).unwrap();
    let spec = BackingSpec { load: None, ..spec };
    world.again().back(&spec).await.unwrap();
    let mut count =
        world.job("count", "psql -h postgres -U tea -d teahouse -tAc 'select count(*) from teas'");
    count.env.insert("PGPASSWORD".into(), "sencha".into());
    let domain::slot::Place::Container { image, .. } = &mut count.place else { unreachable!() };
    let found = world.docker.inspect_image("postgres:16-alpine").await.unwrap();
    let id = found.id.unwrap();
    image.digest = domain::Digest::new(id.trim_start_matches("sha256:")).unwrap();
    let outcome = engine.run(&count).await.unwrap();
    assert_eq!(outcome.tail, ["1"], "{outcome:?}");

    let redis = BackingSpec { load: Some(file), ..world.backing("redis", "redis:7-alpine") };
    let error = engine.back(&redis).await.unwrap_err();
    assert!(error.why.contains("`load` is for PostgreSQL"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_never_runs_twice_whoever_crashes() {
    let world = world!();
    let marks = world.home.scratch().join("marks");
    let mut job =
        world.job("ro-1.migrate", &format!("echo ran >> {}; sleep 1; echo done", marks.display()));
    let domain::slot::Place::Container { container, .. } = &mut job.place else { unreachable!() };
    let scratch = world.home.scratch();
    let target = scratch.to_string_lossy().into_owned();
    container.mounts.push(Mount { source: Source::Host(scratch), target, read_only: false });
    for after in [0, 50, 200, 400, 700] {
        let killed = world.again();
        let _ = tokio::time::timeout(Duration::from_millis(after), killed.run(&job)).await;
    }
    let outcome = world.again().run(&job).await.unwrap();
    assert_eq!((outcome.exit, outcome.tail.as_slice()), (Exit::Code(0), &["done".to_owned()][..]));
    assert_eq!(fs::read_to_string(&marks).unwrap(), "ran\n");
    assert_eq!(world.containers().await, Vec::<String>::new());
    assert_eq!(world.again().run(&job).await.unwrap(), outcome);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_with_the_same_lock_never_overlap_even_over_a_crash() {
    let world = world!();
    let locked = |id: &str| {
        let mut job = world.job(id, "date +%s%N; sleep 0.7; date +%s%N");
        job.lock = Some("migrations".into());
        job
    };
    let (one, two) = (locked("one"), locked("two"));
    let killed = world.again();
    let _ = tokio::time::timeout(Duration::from_millis(900), killed.run(&one)).await;
    drop(killed);
    let (engine, next) = (world.again(), world.again());
    let (second, first) = tokio::join!(engine.run(&two), next.run(&one));
    let times = |outcome: domain::slot::JobOutcome| -> (u64, u64) {
        (outcome.tail[0].parse().unwrap(), outcome.tail[1].parse().unwrap())
    };
    let (first, second) = (times(first.unwrap()), times(second.unwrap()));
    assert!(first.1 <= second.0 || second.1 <= first.0, "{first:?} and {second:?} overlap");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_every_answer_says_so_unless_nothing_is_there() {
    let home = Home::new();
    let socket = Some(home.path().join("no.sock"));
    let state = home.path().join("state");
    let engine =
        DockerEngine::connect(DockerConfig { state: state.clone(), socket: socket.clone() });
    assert_eq!(engine.observe(&staging()).await.unwrap(), Default::default());
    engine.down(&staging(), true).await.unwrap();
    engine.remove(&staging(), Color::Blue).await.unwrap();
    let spec = SlotSpec { services: Vec::new(), ..slot(Color::Blue, 1, Vec::new()) };
    let error = engine.apply(&spec).await.unwrap_err();
    assert!(
        error.why.contains("no Docker Engine answers at") && error.why.contains("DOCKER_HOST"),
        "{error}"
    );
    // It may have been there: now an empty answer would be a lie.
    let next = DockerEngine::connect(DockerConfig { state, socket });
    assert!(next.observe(&staging()).await.is_err());
    assert!(next.usage(&staging()).await.is_err());
}

/// `GET /` on a connection of its own; the body.
async fn get(address: std::net::SocketAddr) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
            _ => Err(std::io::Error::other(format!("answered {answer:?}"))),
        }
    };
    let late = |_| Err(std::io::Error::other("no answer within 5 s"));
    tokio::time::timeout(Duration::from_secs(5), asking).await.unwrap_or_else(late)
}

/// One command; the first line of the answer.
async fn redis(address: std::net::SocketAddr, command: &str) -> String {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    line.trim().to_owned()
}

/// Asks an address again and again, each time anew, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn on(address: std::net::SocketAddr) -> Self {
        let (stop, sent, lost) = (Arc::<AtomicBool>::default(), Arc::default(), Arc::default());
        let (stopped, counted): (_, (Arc<AtomicU64>, Arc<AtomicU64>)) =
            (Arc::clone(&stop), (Arc::clone(&sent), Arc::clone(&lost)));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                counted.0.fetch_add(1, Ordering::Relaxed);
                if get(address).await.is_err() {
                    counted.1.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { stop, sent, lost, task }
    }

    /// Requests, and those of them that were lost.
    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        (self.sent.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

mod of_its_own {
    use super::*;
    use common::daemon::Daemon;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_restart_of_the_engine_loses_no_request() {
        let Some(mut daemon) = Daemon::start(None).await else { return };
        let world = World::on(daemon.client(), Some(daemon.socket())).await;
        // Each request looks its backing service up, as one does that connects to its database anew.
        let mut store = world.backing("store", common::docker::PYTHON);
        store.container = Some(Box::new(world.container("exec python3 -m http.server 8000")));
        world.engine.back(&store).await.unwrap();
        let mut web = world.service("web", SERVE_INSIDE);
        web.env.insert("KNOWS".into(), "store".into());
        web.replicas = 2;
        world.engine.apply(&slot(Color::Blue, 1, vec![web.clone()])).await.unwrap();
        let before = until_slot_ready(&world.engine, Color::Blue).await;
        let replicas = before.slots[&Color::Blue].services[&name("web")].clone();
        let (one, two) = (Load::on(address(&replicas[0])), Load::on(address(&replicas[1])));
        for signal in ["TERM", "KILL"] {
            daemon.down(signal);
            let error = world.engine.observe(&staging()).await.unwrap_err();
            assert!(error.why.contains("no Docker Engine answers"), "{error}");
            // What is asked meanwhile waits for the Engine to come back.
            let spec = slot(Color::Blue, 1, vec![web.clone()]);
            let (applied, ()) = tokio::join!(world.engine.apply(&spec), daemon.up());
            applied.unwrap();
        }
        let (sent, lost) = (one.end().await, two.end().await);
        println!("restart of the Engine: {} requests, {} lost", sent.0 + lost.0, sent.1 + lost.1);
        assert!(sent.0 > 50 && lost.0 > 50, "{sent:?} {lost:?}");
        assert_eq!((sent.1, lost.1), (0, 0));
        let after = until_slot_ready(&world.engine, Color::Blue).await;
        assert_eq!(after.slots, before.slots, "the same processes at the same addresses");
        world.engine.down(&staging(), true).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_build_on_a_full_disk_says_so_and_the_engine_goes_on() {
        use engine::docker::build::{BuildRequest, Context, ImageBuilder, Secrets};
        let Some(daemon) = Daemon::start(Some(400)).await else { return };
        let world = World::on(daemon.client(), Some(daemon.socket())).await;
        let web = world.service("web", SERVE_INSIDE);
        world.engine.apply(&slot(Color::Blue, 1, vec![web])).await.unwrap();
        let before = until_ready(&world.engine, Color::Blue, "web").await;
        let folder = tempfile::tempdir().unwrap();
        let dockerfile = format!(
            "FROM {}\nRUN dd if=/dev/zero of=/fill bs=1M count=2000\n",
            common::docker::PYTHON
        );
        fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
        let host = format!("unix://{}", daemon.socket().display());
        let request = BuildRequest {
            context: Context {
                root: folder.path().to_owned(),
                dockerfile: "Dockerfile".into(),
                inline: None,
                modified: 1_700_000_000,
            },
            tag: "teahouse/full:1".into(),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            secrets: Secrets::default(),
            pull: false,
            no_cache: false,
            // The test's Engine has no default network.
            network: Some("none".into()),
            extra_hosts: Vec::new(),
        };
        for builder in [
            ImageBuilder::connect_to(&host).await.unwrap(),
            ImageBuilder::connect_to(&host).await.unwrap().classic(),
        ] {
            let mut lines = Vec::new();
            let built = builder.build(&request, &mut |line| lines.push(line.to_owned())).await;
            let all = format!("{}\n{}", built.unwrap_err(), lines.join("\n"));
            assert!(all.to_lowercase().contains("no space left on device"), "{all}");
        }
        assert_eq!(replica(&world.engine, Color::Blue, "web", 0).await, before, "it serves on");
        world.engine.down(&staging(), true).await.unwrap();
    }
}
