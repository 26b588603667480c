//! Kills and hangs everything that runs, under constant traffic: each part recovers by itself, or `status` says what is
//! wrong; and as long as one replica is left, no request is lost. Prints what each fault cost.

mod support;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use control::load::{Counters, Load, Target, Traffic};
use domain::units::Rate;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::{Harness, PATIENCE, signal};

/// Requests per second.
const RATE: f64 = 80.0;
/// Requests that may be under way in the moment of a fault.
const UNDER_WAY: u64 = 10;

#[test]
fn a_killed_edge_is_back_on_its_address_with_its_table() {
    let mut scene = Scene::without_backing();
    let before = scene.status();
    let gone = scene.kill_edge(&before);
    scene.wait_until_well();
    scene.bounded_by("edge killed", gone);
    let after = scene.status();
    assert_ne!(after["edge"]["pid"], before["edge"]["pid"]);
    assert_eq!(after["edge"]["shim_pid"], before["edge"]["shim_pid"]);
    assert_eq!(after["edge"]["listen"], before["edge"]["listen"]);
    assert_eq!(after["edge"]["epoch"], before["edge"]["epoch"]);
    assert_eq!(after["edge"]["restarts"], 1);

    scene.harness.kill_server();
    let gone = scene.kill_edge(&after);
    scene.bounded_by("edge killed while the server was down", gone);
    scene.harness.start();
    scene.wait_until_well();
    assert_eq!(scene.status()["edge"]["restarts"], 2);
    assert_eq!(scene.status()["edge"]["epoch"], before["edge"]["epoch"]);
    scene.end();
}

#[test]
fn a_killed_supervisor_of_the_edge_is_replaced_by_the_server() {
    let mut scene = Scene::without_backing();
    let before = scene.status();
    let killed = Instant::now();
    kill(pid(&before["edge"]["shim_pid"]));
    let gone = scene.wait_for_edge(&before, killed);
    assert!(gone < Duration::from_secs(5), "the edge was away for {gone:?}");
    scene.wait_until_well();
    scene.bounded_by("edge's supervisor killed", gone);
    let after = scene.status();
    assert_ne!(after["edge"]["shim_pid"], before["edge"]["shim_pid"]);
    assert_eq!(after["edge"]["listen"], before["edge"]["listen"]);
    scene.end();
}

#[test]
fn a_server_of_another_build_brings_its_own_edge_and_nobody_notices() {
    let mut scene = Scene::without_backing();
    for server_dies in [false, true, false] {
        let before = scene.status();
        scene.harness.install();
        match server_dies {
            true => scene.harness.kill_server(),
            false => drop(scene.harness.terminate_server()),
        }
        scene.harness.start();
        let after = scene.status();
        assert_ne!(after["edge"]["pid"], before["edge"]["pid"], "another build");
        assert_eq!(after["edge"]["listen"], before["edge"]["listen"]);
        assert_eq!(after["edge"]["epoch"], before["edge"]["epoch"]);
        // The one before may still finish what it has, up to the idle time of the slowest client.
        scene.eventually("all is well", |scene| complaints(&scene.status()).is_empty());
        scene.unnoticed("edge replaced");
    }
    // The same build again: the edge stays.
    let before = scene.status();
    scene.harness.terminate_server();
    scene.harness.start();
    assert_eq!(scene.status()["edge"]["pid"], before["edge"]["pid"]);
    // The current one is known whatever its name is.
    let gone = scene.kill_edge(&before);
    scene.bounded_by("replaced edge killed", gone);
    scene.eventually("all is well", |scene| complaints(&scene.status()).is_empty());
    scene.end();
}

#[test]
fn a_killed_replica_is_started_again_and_nobody_notices() {
    let mut scene = Scene::without_backing();
    let before = scene.replicas();
    kill(before[0].pid);
    scene.eventually("it is started again", |scene| scene.replicas()[0].pid != before[0].pid);
    scene.wait_until_well();
    scene.unnoticed("replica killed");
    let after = scene.replicas();
    assert_eq!((after[0].shim, after[0].restarts), (before[0].shim, before[0].restarts + 1));
    assert_eq!(after[1], before[1]);

    kill(after[0].shim);
    scene.eventually("it is supervised again", |scene| scene.replicas()[0].shim != after[0].shim);
    scene.wait_until_well();
    scene.unnoticed("replica's supervisor killed");
    let again = scene.replicas();
    assert_ne!(again[0].pid, after[0].pid);
    assert_eq!(again[1], before[1]);
    scene.end();
}

#[test]
fn requests_wait_for_the_only_replica_when_it_is_killed() {
    let mut scene = Scene::of_replicas(1);
    for _ in 0..2 {
        let before = scene.replicas();
        kill(before[0].pid);
        scene.eventually("it is started again", |scene| {
            scene.replicas()[0].restarts > before[0].restarts
        });
        scene.wait_until_well();
        scene.unnoticed("only replica killed");
    }
    scene.end();
}

#[test]
fn a_replica_that_hangs_gets_no_traffic_until_it_goes_on() {
    let mut scene = Scene::without_backing();
    let before = scene.replicas();
    signal(before[1].pid, Signal::SIGSTOP);
    let _goes_on = GoesOn(before[1].pid);
    scene.eventually("the edge keeps it out", |scene| {
        scene.replica(1)["ejected"].is_string() && scene.replica(1)["problem"].is_string()
    });
    println!("status says: {}", scene.replica(1));
    let page = scene.harness.expect(0, &["status", "staging"]);
    assert!(page.contains("web 1 gets no traffic") && page.contains("1 of 2 ready"), "{page}");
    assert!(page.contains("a new look takes longer than 500ms"), "it waited for the probe: {page}");
    let then = scene.counters();
    scene.eventually("the other one answers", |scene| {
        scene.counters().answered > then.answered + 100
    });
    scene.unnoticed("replica hangs");
    signal(before[1].pid, Signal::SIGCONT);
    scene.wait_until_well();
    scene.unnoticed("replica goes on");
    assert_eq!(scene.replicas(), before, "a hang is no reason to start anything again");
    scene.end();
}

#[test]
fn a_killed_database_is_back_with_its_data_and_status_says_when_it_was_away() {
    let mut scene = Scene::with_backing();
    sql(&scene, "create table kept (what text); insert into kept values ('all of it')");
    for who in ["pid", "shim_pid"] {
        scene.kill_backing("postgres", who);
        let kept = sql(&scene, "select what from kept");
        assert_eq!(kept, "all of it", "after the {who} was killed");
    }
    scene.kill_backing("redis", "pid");
    scene.kill_backing("redis", "shim_pid");
    assert!(scene.replicas().iter().all(|replica| replica.restarts == 0));
    scene.end();
}

#[test]
fn a_server_that_stays_away_is_not_noticed() {
    let away = std::env::var("LAUNCHWAY_TEST_AWAY").ok().and_then(|text| text.parse().ok());
    let away = Duration::from_secs(away.unwrap_or(8));
    let mut scene = Scene::with_backing();
    let before = scene.status();
    scene.harness.kill_server();
    // Nothing to await: being away is the point.
    std::thread::sleep(away);
    scene.harness.start();
    scene.wait_until_well();
    scene.unnoticed(&format!("server away for {away:?}"));
    let after = scene.status();
    assert_ne!(after["server"]["pid"], before["server"]["pid"]);
    assert_eq!(after["edge"], before["edge"]);
    let environment = |status: &Value, part: &str| without_figures(&staging(status)[part]);
    assert_eq!(environment(&after, "slots"), environment(&before, "slots"));
    assert_eq!(environment(&after, "backing"), environment(&before, "backing"));
    scene.end();
}

/// What runs, without how much it uses and serves: that goes on while nobody looks.
fn without_figures(list: &Value) -> Value {
    let mut list = list.clone();
    for entry in list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        entry.remove("usage");
        entry.remove("traffic");
        if let Some(replicas) = entry.get_mut("replicas") {
            *replicas = without_figures(replicas);
        }
    }
    list
}

#[test]
fn a_full_disk_ends_what_needs_it_but_not_the_traffic() {
    let mut harness = Harness::new();
    let Some(disk) = Disk::mount(&harness.state) else {
        eprintln!("SKIPPED: a small disk can only be mounted as root");
        return;
    };
    plain(&harness, 2);
    harness.start();
    let mut scene = Scene { disk: Some(disk), ..Scene::of(harness) };
    let before = scene.replicas();
    scene.disk().fill();
    let refused = scene.harness.launchway(&["run"]);
    assert!(!refused.status.success(), "acknowledged without a place to write it down");
    println!("run said: {}", support::text(&refused.stderr).trim());
    assert!(!scene.harness.server_ended().success());
    let said = scene.harness.said();
    assert!(said.contains("database or disk is full"), "{said}");
    kill(before[0].pid);
    let address = scene.endpoints[0];
    scene.eventually("the replica is away", |_| !alive(before[0].pid));
    scene.eventually("its supervisor starts it again", |_| answers(&address));
    scene.unnoticed("disk full, server ended, replica killed");

    scene.disk().clear();
    scene.harness.start();
    scene.wait_until_well();
    assert_eq!(scene.replicas()[1], before[1]);
    assert_eq!(scene.replicas()[0].shim, before[0].shim);
    scene.unnoticed("disk free, server back");
    scene.end();
}

/// An app in staging under traffic, and what was counted before the fault at hand.
struct Scene {
    counted: Counters,
    traffic: Traffic,
    runtime: tokio::runtime::Runtime,
    endpoints: Vec<SocketAddr>,
    /// Before the harness: its folder cannot be removed while something is mounted in it.
    disk: Option<Disk>,
    harness: Harness,
}

/// One replica's processes.
#[derive(Debug, Clone, PartialEq)]
struct Replica {
    pid: u32,
    shim: u32,
    restarts: u64,
}

const APP: &str = r#"import http.server, os, socket

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer leaves as a whole, at its end: a kill cuts none in two.
    wbufsize = 65536

    def do_GET(self):
        answer(self, 200, os.environ["RELEASE"]) if self.path != "/health" else health(self)

    def log_message(self, *args):
        pass

def health(handler):
    where = os.environ.get("POSTGRES_HOST"), os.environ.get("POSTGRES_PORT")
    try:
        if all(where):
            socket.create_connection(where, timeout=2).close()
        answer(handler, 200, "well")
    except OSError as error:
        answer(handler, 503, str(error))

def answer(handler, status, text):
    body = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

const BACKED: &str = "services:
  web:
    build: ./web
    environment:
      POSTGRES_HOST: ${POSTGRES_HOST:-postgres}
      POSTGRES_PORT: ${POSTGRES_PORT:-5432}
    depends_on: [postgres, redis]
  postgres:
    image: postgres:16-alpine
    environment: { POSTGRES_PASSWORD: secret }
  redis:
    image: redis:7-alpine
";

/// The app with so many replicas in staging and nothing beside it.
fn plain(harness: &Harness, replicas: u32) {
    let yaml = harness.project.launchway_yaml("{ from: [USER] }");
    let yaml = yaml.replace("health: /", "health: /health");
    let replicas = format!("branch: main, replicas: {{ web: {replicas} }},");
    let yaml = yaml.replace("branch: main,", &replicas);
    harness.project.write("launchway.yaml", &yaml);
    harness.project.write("web/app.py", APP);
    harness.project.save("Replicas");
}

impl Scene {
    fn without_backing() -> Self {
        Self::of_replicas(2)
    }

    fn of_replicas(count: u32) -> Self {
        let mut harness = Harness::new();
        plain(&harness, count);
        harness.start();
        Self::of(harness)
    }

    fn with_backing() -> Self {
        let mut harness = Harness::new();
        harness.project.write("compose.yaml", BACKED);
        plain(&harness, 2);
        harness.start();
        Self::of(harness)
    }

    /// Waits until staging is live, and begins the traffic.
    fn of(harness: Harness) -> Self {
        harness.wait_for_live("staging", "Replicas");
        let status = harness.status();
        let target = Target {
            connect: address(&status["edge"]["listen"]),
            host: "staging.tiny.localhost".into(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().expect("a runtime");
        let traffic = {
            let _inside = runtime.enter();
            Traffic::start(Load::new(target, Rate(RATE))).expect("a load")
        };
        let endpoints = live(&status)["replicas"].as_array().expect("a list").iter();
        let endpoints = endpoints.map(|replica| address(&replica["endpoint"]["http"])).collect();
        let counted = Counters::default();
        let mut scene = Self { harness, disk: None, runtime, traffic, endpoints, counted };
        scene.wait_until_well();
        scene.eventually("traffic flows", |scene| scene.counters().answered > 50);
        scene.unnoticed("nothing");
        scene
    }

    fn status(&self) -> Value {
        self.harness.status()
    }

    fn counters(&self) -> Counters {
        self.traffic.counters()
    }

    fn replica(&self, index: usize) -> Value {
        live(&self.status())["replicas"][index].clone()
    }

    /// Those of the live slot; while one is down, its pid is 0.
    fn replicas(&self) -> Vec<Replica> {
        let status = self.status();
        let replicas = live(&status)["replicas"].as_array().cloned().unwrap_or_default();
        let replica = |replica: &Value| Replica {
            pid: pid(&replica["pid"]),
            shim: pid(&replica["shim_pid"]),
            restarts: replica["restarts"].as_u64().unwrap_or_default(),
        };
        let replicas: Vec<Replica> = replicas.iter().map(replica).collect();
        assert_eq!(replicas.len(), self.endpoints.len(), "{status:#}");
        replicas
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("mounted")
    }

    fn eventually(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        self.harness.eventually(what, || condition(self));
    }

    /// Until `status` has nothing to complain of and every process belongs to something that it shows.
    fn wait_until_well(&self) {
        self.eventually("all is well again", |scene| {
            let status = scene.status();
            complaints(&status).is_empty() && strangers(&scene.harness, &status).is_empty()
        });
    }

    /// Kills the edge; how long its address was silent.
    fn kill_edge(&self, before: &Value) -> Duration {
        let killed = Instant::now();
        kill(pid(&before["edge"]["pid"]));
        self.wait_for_edge(before, killed)
    }

    fn wait_for_edge(&self, before: &Value, killed: Instant) -> Duration {
        let address = address(&before["edge"]["listen"]);
        // It may take a moment to die, and answers until then.
        while alive(pid(&before["edge"]["pid"])) {
            std::thread::sleep(Duration::from_millis(1));
        }
        while !answers(&address) {
            assert!(killed.elapsed() < PATIENCE, "the edge stays away\n{}", self.harness.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        killed.elapsed()
    }

    /// Kills one process of a backing service until `status` was seen to say so, and waits for its return.
    fn kill_backing(&mut self, service: &str, who: &str) {
        let before = self.status();
        let seen = |status: &Value| {
            let problem = &backing(status, service)["problem"];
            problem.as_str().filter(|problem| !problem.is_empty()).map(str::to_owned)
        };
        let deadline = Instant::now() + PATIENCE;
        let said = loop {
            let status = self.status();
            if let Some(said) = seen(&status) {
                break said;
            }
            // It can be back sooner than anybody asks; each time it takes a little longer.
            kill(pid(&backing(&status, service)[who]));
            assert!(Instant::now() < deadline, "status never says that {service} is away");
        };
        println!("status says of {service}: {said}");
        self.wait_until_well();
        let after = self.status();
        assert_ne!(backing(&after, service)[who], backing(&before, service)[who]);
        assert_eq!(backing(&after, service)["address"], backing(&before, service)["address"]);
        self.unnoticed(&format!("{who} of {service} killed"));
    }

    /// What was sent and has failed since the last look, once all those requests are answered.
    fn since(&mut self, fault: &str) -> (u64, u64) {
        self.eventually("requests are answered", |scene| scene.counters().in_flight <= 1);
        let now = self.counters();
        let (sent, failed) = (now.sent - self.counted.sent, now.failed - self.counted.failed);
        self.counted = now;
        println!("{fault}: {sent} requests sent, {failed} failed");
        (sent, failed)
    }

    fn unnoticed(&mut self, fault: &str) {
        let (_, failed) = self.since(fault);
        assert_eq!(failed, 0, "{fault}: {:#?}", self.traffic.failures());
    }

    /// No more requests failed than were due while the edge was gone.
    fn bounded_by(&mut self, fault: &str, gone: Duration) {
        let (_, failed) = self.since(&format!("{fault}, away for {gone:?}"));
        let due = (gone.as_secs_f64() * RATE).ceil() as u64 + UNDER_WAY;
        assert!(
            failed <= due,
            "{failed} requests failed in {gone:?}: {:#?}",
            self.traffic.failures()
        );
    }

    /// Ends the traffic and then everything else: whatever happened, nothing is left.
    fn end(mut self) {
        let report = self.runtime.block_on(self.traffic.stop());
        println!(
            "in all: {} sent, {} failed, p99 {:?}, longest {:?}",
            report.sent,
            report.failed(),
            report.p99,
            report.max
        );
        self.harness.expect(0, &["down", "--with-data"]);
        self.harness.server_ended();
        assert_eq!(self.harness.left_over(), Vec::<u32>::new(), "processes are left");
    }
}

/// All that `status` says is wrong.
fn complaints(status: &Value) -> Vec<String> {
    let here = staging(status);
    let mut all = vec![&status["edge"]["problem"]];
    let replicas = live(status)["replicas"].as_array().into_iter().flatten();
    for replica in replicas {
        all.extend([&replica["problem"], &replica["ejected"]]);
    }
    let backing = here["backing"].as_array().into_iter().flatten();
    all.extend(backing.map(|backing| &backing["problem"]));
    let mut said: Vec<String> =
        all.into_iter().filter(|said| !said.is_null()).map(ToString::to_string).collect();
    if status["edge"]["epoch"] != status["edge"]["wanted"] {
        said.push("the edge has an old table".into());
    }
    if live(status)["ready"] != true {
        said.push("the live slot is not ready".into());
    }
    said
}

/// Processes of this state folder that `status` does not show, and that no process it shows has begun.
fn strangers(harness: &Harness, status: &Value) -> Vec<u32> {
    let mut known = BTreeSet::new();
    let replicas = live(status)["replicas"].as_array().into_iter().flatten();
    let backing = staging(status)["backing"].as_array().into_iter().flatten();
    for unit in replicas.chain(backing).chain([&status["edge"]]) {
        known.extend([pid(&unit["pid"]), pid(&unit["shim_pid"])]);
    }
    let parent = |pid: u32| -> Option<u32> { stat(pid)?.1.parse().ok() };
    let stranger =
        |pid: &u32| !known.contains(pid) && parent(*pid).is_some_and(|up| !known.contains(&up));
    harness.left_over().into_iter().filter(stranger).collect()
}

/// Whether a process runs; one that waits to be reaped does not.
fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// A process's state and its parent.
fn stat(pid: u32) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned);
    Some((fields.next()?, fields.next()?))
}

fn staging(status: &Value) -> &Value {
    let all = status["environments"].as_array().into_iter().flatten();
    all.into_iter().find(|environment| environment["name"] == "staging").unwrap_or(&Value::Null)
}

fn live(status: &Value) -> &Value {
    let slots = staging(status)["slots"].as_array().into_iter().flatten();
    slots.into_iter().find(|slot| slot["live"] == true).unwrap_or(&Value::Null)
}

fn backing<'a>(status: &'a Value, service: &str) -> &'a Value {
    let all = staging(status)["backing"].as_array().into_iter().flatten();
    all.into_iter().find(|backing| backing["service"] == service).unwrap_or(&Value::Null)
}

fn pid(value: &Value) -> u32 {
    value.as_u64().map_or(0, |pid| u32::try_from(pid).expect("a pid"))
}

/// 0 is not there, and would mean the test itself.
fn kill(pid: u32) {
    if pid > 0 {
        signal(pid, Signal::SIGKILL);
    }
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).expect("an address")
}

fn answers(address: &SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// What the database of staging answers.
fn sql(scene: &Scene, statement: &str) -> String {
    let status = scene.status();
    let at = address(&backing(&status, "postgres")["address"]);
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
    psql.arg("-p").arg(at.port().to_string()).args(["-c", statement]).env("PGPASSWORD", "secret");
    let output = psql.output().expect("psql runs");
    assert!(output.status.success(), "{}", support::text(&output.stderr));
    support::text(&output.stdout).trim().to_owned()
}

/// Lets a stopped process go on, whatever becomes of the test.
struct GoesOn(u32);

impl Drop for GoesOn {
    fn drop(&mut self) {
        signal(self.0, Signal::SIGCONT);
    }
}

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m,mode=0755", "launchway-test"]).arg(folder);
        mount.status().is_ok_and(|status| status.success()).then(|| Self(folder.to_owned()))
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.join("filler")).expect("created");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it goes when the last process that uses it does.
        let _gone = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
