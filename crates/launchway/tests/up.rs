//! `launchway up` and `down` with plain Compose projects on a real Docker Engine, beside real Docker Compose.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// For everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(180);

/// Whether an Engine answers; said loudly if not, and a failure where it must.
fn docker() -> bool {
    let answers =
        Command::new("docker").arg("version").output().is_ok_and(|done| done.status.success());
    let is = |name, value| std::env::var(name).is_ok_and(|given| given == value);
    let required = is("CI", "true") || is("LAUNCHWAY_REQUIRE_DOCKER", "1");
    assert!(answers || !required, "no Docker Engine answers");
    if !answers {
        eprintln!("SKIPPED: no Docker Engine answers (dev/setup docker installs one)");
    }
    answers
}

/// A folder with a Compose file, and whatever runs from it until the test ends.
struct Project {
    folder: TempDir,
    name: String,
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.launchway(&["down", "--up", "-v"]);
        for image in self.docker(&["images", "-q", &format!("{}-*", self.name)]).lines() {
            self.docker(&["rmi", "-f", image]);
        }
    }
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("lwup").tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_lowercase();
        let project = Self { folder, name };
        files.iter().for_each(|(path, text)| project.write(path, text));
        project
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_launchway"));
        command
            .arg("-C")
            .arg(self.folder.path())
            .args(arguments)
            .env("FROM_SHELL", "shell")
            .stdin(Stdio::null());
        command
    }

    fn launchway(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn up(&self, arguments: &[&str]) -> BTreeMap<String, Value> {
        let done = self.launchway(&[&["up", "-d", "--json"], arguments].concat());
        assert!(done.status.success(), "{}", text(&done));
        let shown: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(shown["project"], self.name);
        let containers = shown["containers"].as_array().unwrap().iter();
        containers
            .map(|shown| (shown["service"].as_str().unwrap().to_owned(), shown.clone()))
            .collect()
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let done = Command::new("docker").args(arguments).output().unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    /// One word of what the Engine knows of a container.
    fn inspect(&self, service: &str, what: &str) -> String {
        self.docker(&[
            "inspect",
            "-f",
            &format!("{{{{{what}}}}}"),
            &format!("{}-{service}-1", self.name),
        ])
    }

    /// Volumes that nobody gave a name, of containers that are there or gone.
    fn unnamed_volumes(&self) -> String {
        let ours = format!("label=dev.launchway.project={}", self.name);
        let all = self.docker(&["volume", "ls", "-q", "--filter", &ours]);
        all.lines().filter(|name| !name.contains('_')).map(|name| format!("{name}\n")).collect()
    }

    fn volumes(&self) -> String {
        self.docker(&["volume", "ls", "-q", "--filter", &format!("name={}_", self.name)])
    }
}

fn text(done: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

/// The port of this machine that a container's is published at.
fn port(shown: &Value) -> u16 {
    let text = shown["ports"][0].as_str().unwrap();
    text.split("->").next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

/// Status, cookie and body of an answer.
fn ask(
    port: u16,
    method: &str,
    path: &str,
    cookie: &str,
    body: &str,
) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: shop\r\nCookie: {cookie}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut all = String::new();
    stream.read_to_string(&mut all)?;
    let (head, body) = all.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let given = head.lines().find(|line| line.to_lowercase().starts_with("set-cookie:"));
    let cookie = given.and_then(|line| line.split([' ', ';']).nth(1)).unwrap_or_default();
    Ok((status.ok_or(std::io::ErrorKind::InvalidData)?, cookie.to_owned(), body.to_owned()))
}

/// What the server at `port` answers, as soon as it does.
fn answer(port: u16, path: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask(port, "GET", path, "", "") {
            Ok((200, _, body)) => return body,
            other => assert!(Instant::now() < deadline, "{path}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

const SERVER: &str = r#"
import http.server, os, pathlib, signal, sys

def read(path):
    try: return pathlib.Path(path).read_text().strip()
    except OSError as error: return type(error).__name__

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        seen = [os.environ.get(n, "-") for n in ("FROM_FILE", "FROM_DOT_ENV", "FROM_SHELL", "PLAIN")]
        seen += [read(p) for p in ("/run/secrets/token", "/run/secrets/key", "/etc/greeting", "/data/made", "/site/page")]
        body = "\n".join(seen).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): print("asked", *a, flush=True)

signal.signal(signal.SIGTERM, lambda *_: (print("told to end", flush=True), sys.exit(0)))
print("serving", flush=True)
http.server.HTTPServer(("", 8000), Handler).serve_forever()
"#;

const COMPOSE: &str = r#"
services:
  web:
    build: ./web
    user: "1000"
    environment: { PLAIN: "${WHO:-nobody}", FROM_SHELL: "${FROM_SHELL}", FROM_DOT_ENV: "${FROM_DOT_ENV}" }
    env_file: web.env
    ports: ["127.0.0.1::8000"]
    volumes: ["data:/data:ro", "./site:/site"]
    secrets: [token, key]
    configs: [{ source: greeting, target: /etc/greeting }]
    depends_on:
      cache: { condition: service_healthy }
      setup: { condition: service_completed_successfully }
  cache:
    image: redis:7-alpine
    healthcheck: { test: [CMD, redis-cli, ping], interval: 500ms, timeout: 3s, retries: 60 }
  setup:
    image: redis:7-alpine
    command: sh -c "redis-cli -h cache set made yes && echo once >> /data/made"
    volumes: ["data:/data"]
    depends_on: { cache: { condition: service_healthy } }
  debug:
    image: redis:7-alpine
    command: sleep 1000
    init: true
    profiles: [debug]
volumes: { data: {} }
secrets:
  token: { file: ./token }
  key: { environment: FROM_SHELL }
configs:
  greeting: { content: "hello ${WHO:-nobody}" }
"#;

fn shop() -> Project {
    Project::new(&[
        ("compose.yaml", COMPOSE),
        ("web/Dockerfile", "FROM python:3.11-slim\nCOPY app.py /\nCMD [\"python\", \"/app.py\"]\n"),
        ("web/app.py", SERVER),
        ("web.env", "FROM_FILE='a file'\nPLAIN=overridden\n"),
        (".env", "FROM_DOT_ENV=dotenv\nFROM_SHELL=dotenv\n"),
        ("token", "sesame\n"),
        ("site/page", "page\n"),
    ])
}

#[test]
fn a_compose_project_runs_as_its_file_says_and_only_what_changed_is_made_anew() {
    if !docker() {
        return;
    }
    let project = shop();
    let first = project.up(&[]);
    assert_eq!(first.keys().collect::<Vec<_>>(), ["cache", "setup", "web"], "profiles are off");
    assert!(first.values().all(|shown| shown["change"] == "created"), "{first:?}");
    assert_eq!(first["web"]["container"], format!("{}-web-1", project.name));
    let seen = answer(port(&first["web"]), "/");
    let expected = "a file\ndotenv\nshell\nnobody\nsesame\nshell\nhello nobody\nonce\npage";
    assert_eq!(seen, expected);
    assert_eq!(project.inspect("web", "index .Config.Labels \"com.docker.compose.project\""), "");
    assert_eq!(project.volumes(), format!("{}_data", project.name));

    let cache = project.inspect("cache", ".Id");
    let second = project.up(&["--profile", "debug"]);
    assert_eq!(second["web"]["change"], "unchanged");
    assert_eq!(second["debug"]["change"], "created");

    project.write(".env", "FROM_DOT_ENV=dotenv\nWHO=somebody\n");
    let third = project.launchway(&["up", "-d", "--json"]);
    assert!(
        !text(&third).contains("warning"),
        "a service of a profile is no stranger: {}",
        text(&third)
    );
    let shown = project.up(&[]);
    let seen = answer(port(&shown["web"]), "/");
    assert!(seen.contains("somebody") && seen.contains("hello somebody"), "{seen}");
    assert_eq!(project.inspect("cache", ".Id"), cache, "what did not change goes on");

    what_runs_is_shown(&project);
    assert_ne!(project.unnamed_volumes(), "", "its image has one");
    let down = project.launchway(&["down"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(project.inspect("web", ".Id") + &project.inspect("debug", ".Id"), "");
    assert_eq!(project.volumes(), format!("{}_data", project.name), "volumes stay");
    assert_eq!(
        project.docker(&["network", "ls", "-q", "--filter", &format!("name={}_", project.name)]),
        ""
    );
    let down = project.launchway(&["down", "-v"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(project.volumes() + &project.unnamed_volumes(), "");
    let image = format!("{}-web:latest", project.name);
    assert_ne!(project.docker(&["image", "ls", "-q", &image]), "", "as with Docker Compose");
    let said = text(&down);
    let way_out = said.split('`').nth(1).expect("a command").to_owned();
    assert!(said.contains(&image) && way_out.contains("docker image rm"), "{said}");
    assert!(text(&project.launchway(&["doctor"])).contains(&image));
    assert!(Command::new("sh").args(["-c", &way_out]).status().unwrap().success());
    assert_eq!(project.docker(&["image", "ls", "-q", &image]), "");

    let idle = project.launchway(&["status"]);
    assert!(idle.status.success(), "{}", text(&idle));
    assert!(text(&idle).contains("nothing runs from this folder; `launchway up`"));
    assert_eq!(project.launchway(&["logs"]).status.code(), Some(2), "of what?");
    let idle = project.launchway(&["down", "--with-data"]);
    assert!(idle.status.success(), "{}", text(&idle));
    assert!(text(&idle).contains("nothing runs from this folder"), "{}", text(&idle));
    project.write("launchway.yaml", "app: shop\n");
    let idle = project.launchway(&["down"]);
    assert!(idle.status.success(), "{}", text(&idle));
    assert!(text(&idle).contains("nothing runs from this folder"), "{}", text(&idle));
}

/// `status` and `logs` know what `up` runs, without a server.
fn what_runs_is_shown(project: &Project) {
    let shown = project.launchway(&["status"]);
    assert!(shown.status.success(), "{}", text(&shown));
    let said = text(&shown);
    let row = |of: &str| said.lines().find(|line| line.contains(&format!("-{of}-1"))).unwrap();
    assert!(row("web").contains("running") && row("web").ends_with("->8000/tcp"), "{said}");
    assert!(row("cache").contains("running, healthy"), "{said}");
    assert!(row("setup").contains("ended with 0"), "{said}");
    let shown = project.launchway(&["status", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["project"], project.name);

    let all = text(&project.launchway(&["logs"]));
    assert!(all.contains("web-1 | serving") && all.contains("cache-1 | "), "{all}");
    let one = text(&project.launchway(&["logs", "web", "-n", "1"]));
    assert!(one.lines().count() == 1 && one.starts_with("asked "), "{one}");
    let mut follower = project.command(&["logs", "web", "-f"]);
    let mut follower = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "serving", "what it wrote before");
    let port =
        project.inspect("web", "(index (index .NetworkSettings.Ports \"8000/tcp\") 0).HostPort");
    answer(port.parse().unwrap(), "/asked-while-followed");
    assert!(lines.any(|line| line.unwrap().contains("/asked-while-followed")));
    Command::new("kill").args(["-INT", &follower.id().to_string()]).status().unwrap();
    assert_eq!(follower.wait().unwrap().code(), Some(130));
}

#[test]
fn ctrl_c_stops_what_was_started_and_the_last_words_are_heard() {
    if !docker() {
        return;
    }
    let project = shop();
    let mut child =
        project.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = lines.by_ref().map(|line| line.unwrap());
    let mine = said.find(|line| line.starts_with("web-1") && line.ends_with("| serving"));
    assert!(mine.is_some(), "it shows what its services write, each with its name");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let rest: Vec<String> = lines.map(|line| line.unwrap()).collect();
    let status = child.wait().unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(status.code(), Some(130), "{error}");
    let stopping =
        |service: &str| error.find(&format!("container {}-{service}-1: stopping", project.name));
    assert!(
        stopping("web") < stopping("cache") && stopping("web").is_some(),
        "in reverse order: {error}"
    );
    assert_eq!(project.inspect("web", ".State.ExitCode"), "0", "{rest:?}");
    assert_eq!(project.inspect("cache", ".State.Running"), "false");
}

#[test]
fn a_service_whose_dependency_fails_is_not_started_and_the_reason_is_said() {
    if !docker() {
        return;
    }
    let compose = r#"
services:
  web: { image: "redis:7-alpine", command: sleep 100, depends_on: { setup: { condition: service_completed_successfully } } }
  setup: { image: "redis:7-alpine", command: sh -c "echo no teapot here; exit 3" }
"#;
    let project = Project::new(&[("compose.yaml", compose)]);
    let done = project.launchway(&["up", "-d"]);
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("exit status 3") && said.contains("no teapot here"), "{said}");
    assert_eq!(project.inspect("web", ".Id"), "");
}

#[test]
fn mistakes_are_told_with_their_line_and_nothing_is_started() {
    let project = Project::new(&[(
        "compose.yaml",
        "services:\n  web:\n    image: redis\n    privileged: true\n",
    )]);
    let done = project.launchway(&["up", "-d"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done).contains("compose.yaml:4:"), "{}", text(&done));
    if docker() {
        let project = Project::new(&[
            ("compose.yaml", "services: { web: { build: ./web } }"),
            ("web/Dockerfile", "FROM redis:7-alpine\n\nCOPY lost /\n"),
        ]);
        let done = project.launchway(&["up", "-d"]);
        assert_eq!(done.status.code(), Some(1));
        let place = "building the image of web: web/Dockerfile:3: `COPY lost /`: ";
        assert!(text(&done).contains(place), "{}", text(&done));
    }
    let project = Project::new(&[
        ("compose.yaml", "services: {}"),
        ("compose.override.yaml", "services: {}"),
    ]);
    let done = project.launchway(&["up", "-d"]);
    assert!(text(&done).contains("compose.override.yaml"), "{}", text(&done));
}

#[test]
fn data_of_a_volume_without_a_name_outlives_the_container_that_is_made_anew() {
    if !docker() {
        return;
    }
    let compose = |who: &str| {
        format!(
            "services:\n  keeper:\n    image: redis:7-alpine\n    init: true\n    environment: {{ WHO: {who} }}\n    volumes: [/kept]\n    \
             command: sh -c \"echo {who} >> /kept/names; sleep 1000\"\n"
        )
    };
    let project = Project::new(&[("compose.yaml", &compose("one"))]);
    project.up(&[]);
    let names =
        || project.docker(&["exec", &format!("{}-keeper-1", project.name), "cat", "/kept/names"]);
    let deadline = Instant::now() + PATIENCE;
    while names() != "one" {
        assert!(Instant::now() < deadline, "{}", names());
    }
    project.write("compose.yaml", &compose("two"));
    let shown = project.up(&[]);
    assert_eq!(shown["keeper"]["change"], "recreated");
    while names() != "one\ntwo" {
        assert!(Instant::now() < deadline, "{}", names());
    }
    project.write(
        "compose.yaml",
        "services: { other: { image: redis:7-alpine, command: sleep 1000, init: true } }",
    );
    let done = project.launchway(&["up", "-d"]);
    let orphan = format!("{}-keeper-1", project.name);
    assert!(text(&done).contains(&orphan), "{}", text(&done));
    assert_eq!(project.inspect("keeper", ".State.Running"), "true");
    let kept = project.inspect("keeper", "range .Mounts}}{{println .Name}}{{end");
    project.launchway(&["up", "-d", "--remove-orphans"]);
    assert_eq!(project.inspect("keeper", ".Id"), "");
    let there = project.unnamed_volumes();
    assert!(kept.lines().all(|volume| there.contains(volume)), "{kept} of {there}");
    let down = project.launchway(&["down", "--with-data"]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(project.unnamed_volumes(), "", "whatever became of their containers");
}

/// Docker Compose as `dev/compose` fetches it.
struct Compose {
    program: PathBuf,
    folder: PathBuf,
    project: String,
}

impl Compose {
    fn new(folder: &Path, project: &str) -> Self {
        let fetched = Command::new(root().join("dev/compose")).output().unwrap();
        assert!(fetched.status.success(), "{}", text(&fetched));
        let program =
            PathBuf::from(String::from_utf8(fetched.stdout).unwrap().trim()).join("docker-compose");
        Self { program, folder: folder.to_owned(), project: project.to_owned() }
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.program);
        let done = command
            .args(["-p", &self.project])
            .args(arguments)
            .current_dir(&self.folder)
            .output()
            .unwrap();
        assert!(done.status.success(), "docker compose {arguments:?}: {}", text(&done));
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let mut command = Command::new(&self.program);
        let down = ["-p", &self.project, "down", "-v", "--rmi", "local", "--remove-orphans"];
        let _ = command.args(down).current_dir(&self.folder).output();
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_project_that_docker_compose_runs_already_is_refused_with_the_way_out() {
    if !docker() {
        return;
    }
    let compose = "services: { web: { image: redis:7-alpine, command: sleep 1000, init: true } }";
    let project = Project::new(&[("compose.yaml", compose)]);
    let theirs = Compose::new(project.folder.path(), &project.name);
    theirs.run(&["up", "-d"]);
    let done = project.launchway(&["up", "-d"]);
    assert_eq!(done.status.code(), Some(2));
    let way = format!("docker compose -p {} down", project.name);
    assert!(text(&done).contains(&way), "{}", text(&done));
    theirs.run(&["down", "-v"]);
    assert_eq!(project.up(&[]).len(), 1);
}

/// The example shop at a port of its own, and its Dockerfiles as they are.
fn teahouse(port: u16) -> Project {
    let project = Project::new(&[]);
    let source = root().join("examples/teahouse");
    let copied =
        Command::new("cp").arg("-r").arg(source.join(".")).arg(project.folder.path()).status();
    assert!(copied.unwrap().success());
    let file = project.folder.path().join("compose.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text
        .replace("\"8080:80\"", &format!("\"127.0.0.1:{port}:80\""))
        .replace("\nname: teahouse\n", "\n");
    assert_ne!(text, changed);
    std::fs::write(file, changed).unwrap();
    project
}

/// What a visitor sees of the shop: answers, without the times in them.
fn visit(port: u16) -> Vec<String> {
    answer(port, "/api/teas");
    let mut cookie = String::new();
    let order = r#"{"tea_id":2,"quantity":12}"#;
    let steps = [
        ("GET", "/", ""),
        ("GET", "/nowhere.html", ""),
        ("GET", "/api/version", ""),
        ("GET", "/api/teas", ""),
        ("GET", "/api/teas?q=green", ""),
        ("GET", "/api/teas/3", ""),
        ("GET", "/api/teas/99999", ""),
        ("GET", "/api/me", ""),
        ("POST", "/api/login", r#"{"name":"guest","password":"wrong"}"#),
        ("POST", "/api/login", r#"{"name":"guest","password":"guest"}"#),
        ("GET", "/api/me", ""),
        ("POST", "/api/orders", order),
        ("POST", "/api/orders", r#"{"tea_id":2}"#),
        ("GET", "/api/orders", ""),
        ("POST", "/api/logout", ""),
        ("GET", "/api/orders", ""),
    ];
    let mut seen = Vec::new();
    for (method, path, body) in steps {
        let (status, given, answer) = ask(port, method, path, &cookie, body).unwrap();
        if path == "/api/login" && status == 200 {
            cookie = given;
        }
        seen.push(format!("{method} {path}: {status} {}", without_times(&answer)));
    }
    seen
}

fn without_times(answer: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(answer) else { return answer.to_owned() };
    let list = value.as_array_mut().map(|list| list.iter_mut().collect::<Vec<_>>());
    let objects = list.unwrap_or_default().into_iter().filter_map(Value::as_object_mut);
    objects.for_each(|object| drop(object.remove("at")));
    if let Some(object) = value.as_object_mut() {
        object.remove("at");
    }
    value.to_string()
}

#[test]
fn the_example_shop_is_the_same_with_docker_compose_and_with_launchway_up() {
    if !docker() {
        return;
    }
    let (our_port, their_port) = (free_port(), free_port());
    let ours = teahouse(our_port);
    let copy = teahouse(their_port);
    let theirs = Compose::new(copy.folder.path(), &copy.name);
    theirs.run(&["up", "-d", "--build"]);
    ours.up(&["--build"]);
    let (here, there) = (visit(our_port), visit(their_port));
    assert_eq!(here, there);
    assert!(here.iter().any(|line| line.starts_with("POST /api/orders: 201")), "{here:?}");
    for port in [our_port, their_port] {
        let mut journey = Command::new("python3");
        journey.arg(root().join("examples/teahouse/tests/journey.py"));
        let done = journey.env("BASE_URL", format!("http://127.0.0.1:{port}")).output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
    }
}
