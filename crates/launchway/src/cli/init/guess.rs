//! What a service's files say about running it without a container.

use std::path::Path;
use std::process::Command;

use domain::config::{EngineKind, OutlinedService};
use serde_json::Value;

/// The folder of a service itself, with all that is in it.
pub const WHOLE: &str = ".";
/// Where images of nginx have their pages.
const PAGES: &str = "/usr/share/nginx/html";

/// What was guessed about one service of ours.
pub struct Guess {
    pub name: String,
    pub health: Option<String>,
    pub setup: Option<String>,
    pub serve: Serve,
    /// Its ports that plain Compose publishes on the machine.
    pub published: Vec<u16>,
    /// There is a Dockerfile where Compose looks for it.
    has_dockerfile: bool,
    /// Path prefixes that its nginx passes on to other services.
    passes: Vec<(String, String)>,
}

/// How it is served.
pub enum Serve {
    Files(String),
    Command(String),
    Unknown,
}

/// Guesses about `service`; nothing for a backing one.
pub fn service(folder: &Path, service: &OutlinedService, all: &[OutlinedService]) -> Option<Guess> {
    let context = folder.join(service.context.as_ref()?);
    let dockerfile = std::fs::read_to_string(context.join(&service.dockerfile)).ok();
    let has_dockerfile = dockerfile.is_some();
    let (setup, serve) = native(&context, &dockerfile.unwrap_or_default());
    let nginx = std::fs::read_to_string(context.join("nginx.conf")).unwrap_or_default();
    Some(Guess {
        name: service.name.clone(),
        health: service.health.clone(),
        setup,
        serve,
        published: ports(service),
        has_dockerfile,
        passes: passes(&nginx, all),
    })
}

/// Images where all can be built: that is how Compose ran them so far.
pub fn engine(guesses: &[Guess]) -> EngineKind {
    match guesses.iter().all(|guess| guess.has_dockerfile) {
        true => EngineKind::Docker,
        false => EngineKind::Process,
    }
}

fn ports(service: &OutlinedService) -> Vec<u16> {
    let mut ports = service.published.clone();
    ports.dedup();
    ports
}

/// Every path prefix has one service: the page at `/`, what it passes on, and what is published.
pub fn routes(guesses: &[Guess]) -> Vec<(String, String)> {
    let is_page = |guess: &&Guess| matches!(guess.serve, Serve::Files(_));
    let page = guesses
        .iter()
        .find(is_page)
        .or_else(|| guesses.iter().find(|guess| !guess.published.is_empty()))
        .or(guesses.first());
    let mut routes: Vec<(String, String)> =
        page.map(|page| ("/".into(), page.name.clone())).into_iter().collect();
    let mut add = |prefix: String, service: &str| {
        let taken = routes.iter().any(|(known, target)| *known == prefix || target == service);
        if !taken {
            routes.push((prefix, service.into()));
        }
    };
    for (prefix, service) in guesses.iter().flat_map(|guess| &guess.passes) {
        add(prefix.clone(), service);
    }
    for guess in guesses {
        let is_api = ["backend", "api", "server"].contains(&guess.name.as_str());
        match (is_api, !guess.published.is_empty()) {
            (true, _) => add("/api".into(), &guess.name),
            (false, true) => add(format!("/{}", guess.name), &guess.name),
            (false, false) => {}
        }
    }
    routes
}

/// The branch that is worked on: the one that is checked out, else the only one.
pub fn branch(folder: &Path) -> Option<String> {
    let git = |arguments: &[&str]| {
        // Nothing of the repository is run for this, whoever it belongs to.
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*", "-C"]).arg(folder).args(arguments);
        let output = git.output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let all = || git(&["for-each-ref", "--format=%(refname:strip=2)", "refs/heads"]);
    let only = |all: String| (all.lines().count() == 1).then_some(all);
    git(&["symbolic-ref", "--quiet", "--short", "HEAD"]).or_else(|| all().and_then(only))
}

/// The OS user who could approve.
pub fn user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    user.map_or_else(|| "root".into(), |user| user.name)
}

fn native(context: &Path, dockerfile: &str) -> (Option<String>, Serve) {
    let has = |name: &str| context.join(name).is_file();
    let command = command(dockerfile);
    if has("requirements.txt") || has("pyproject.toml") {
        let what = if has("requirements.txt") { "-r requirements.txt" } else { "." };
        let setup = format!("python3 -m venv .venv && .venv/bin/pip install {what}");
        let serve = command.map_or(Serve::Unknown, |c| {
            Serve::Command(format!(".venv/bin/{}", on_port(&c, dockerfile)))
        });
        return (Some(setup), serve);
    }
    if has("package.json") {
        return node(context, dockerfile, command);
    }
    if has("go.mod") {
        return (Some("go build -o server .".into()), Serve::Command("./server".into()));
    }
    // Pages beside a program are the program's to serve, with its other files around them.
    let program = command.filter(|command| !serves_files(command));
    if let Some(program) = program {
        return (None, Serve::Command(on_port(&python3(&program), dockerfile)));
    }
    (None, pages(context, dockerfile).map_or(Serve::Unknown, Serve::Files))
}

/// The narrowest folder that has the first page.
fn pages(context: &Path, dockerfile: &str) -> Option<String> {
    let copied = copied_pages(dockerfile);
    let usual = ["public", "dist", "html", "site", "www", "static", WHOLE].map(str::to_owned);
    let has_page = |folder: &String| context.join(folder).join("index.html").is_file();
    copied.into_iter().chain(usual).find(has_page)
}

/// The folder of the context that an nginx image serves, unless it is all of it.
fn copied_pages(dockerfile: &str) -> Option<String> {
    let mut copies = dockerfile.lines().filter_map(|line| line.trim().strip_prefix("COPY "));
    let from = copies.find_map(|copy| match copy.split_whitespace().collect::<Vec<_>>()[..] {
        [from, to] if to.starts_with(PAGES) => Some(from),
        _ => None,
    })?;
    let from = from.trim_start_matches("./").trim_matches('/');
    (from != WHOLE && !from.is_empty()).then(|| from.to_owned())
}

/// A web server with nothing but files.
fn serves_files(command: &str) -> bool {
    let program = command.split(' ').next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    ["nginx", "httpd", "httpd-foreground", "caddy"].contains(&program)
}

/// An image of Python has both names; of machines many have only this one.
fn python3(command: &str) -> String {
    match command.strip_prefix("python ") {
        Some(rest) => format!("python3 {rest}"),
        None => command.into(),
    }
}

fn node(context: &Path, dockerfile: &str, command: Option<String>) -> (Option<String>, Serve) {
    let package = std::fs::read(context.join("package.json")).unwrap_or_default();
    let package: Value = serde_json::from_slice(&package).unwrap_or_default();
    let script = |name: &str| package["scripts"][name].is_string();
    let install =
        if context.join("package-lock.json").is_file() { "npm ci" } else { "npm install" };
    let build = if script("build") { " && npm run build" } else { "" };
    let serve = match (built_files(dockerfile), command) {
        (Some(files), _) => Serve::Files(files),
        (None, Some(command)) => Serve::Command(on_port(&command, dockerfile)),
        (None, None) if script("start") => Serve::Command("npm start".into()),
        (None, None) if script("build") => Serve::Files("dist".into()),
        (None, None) => Serve::Unknown,
    };
    (Some(format!("{install}{build}")), serve)
}

/// The folder that an nginx image copies out of the stage that built it.
fn built_files(dockerfile: &str) -> Option<String> {
    let copy = dockerfile
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with("COPY --from=") && line.contains(PAGES))?;
    let from = copy.split_whitespace().nth(2)?;
    from.trim_end_matches('/').rsplit('/').next().map(str::to_owned)
}

/// The last `CMD` of a Dockerfile, as a shell would have it.
fn command(dockerfile: &str) -> Option<String> {
    let line =
        dockerfile.lines().rev().map(str::trim).find_map(|line| line.strip_prefix("CMD "))?.trim();
    let Ok(words) = serde_json::from_str::<Vec<String>>(line) else { return Some(line.into()) };
    let word = |word: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
        if word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    Some(words.iter().map(word).collect::<Vec<_>>().join(" "))
}

/// The command on loopback and on `$PORT` instead of the port of the image.
fn on_port(command: &str, dockerfile: &str) -> String {
    let exposed = dockerfile.lines().find_map(|line| line.trim().strip_prefix("EXPOSE "));
    let port = exposed.and_then(|ports| ports.split(['/', ' ']).next()).unwrap_or("8000");
    let word = |word: &str| match word.rsplit_once([':', '=']) {
        _ if word == port => "$PORT".to_owned(),
        Some((before, after)) if after == port => format!("{}$PORT", &word[..=before.len()]),
        _ => word.to_owned(),
    };
    let words: Vec<String> = command.split(' ').map(word).collect();
    words.join(" ").replace("0.0.0.0", "127.0.0.1")
}

/// `location /x` with `proxy_pass http://SERVICE` in it.
fn passes(nginx: &str, services: &[OutlinedService]) -> Vec<(String, String)> {
    let mut passes = Vec::new();
    let mut location = None;
    for line in nginx.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("location ") {
            let path =
                rest.trim_end_matches(['{', ' ']).trim_start_matches("^~ ").trim_end_matches('/');
            location = (path.starts_with('/') && !path.contains(' ')).then(|| path.to_owned());
        }
        let Some(target) = line.strip_prefix("proxy_pass http://") else { continue };
        let host = target.split([':', '/', ';']).next().unwrap_or_default();
        let ours = services.iter().any(|service| service.name == host && service.context.is_some());
        if let (Some(path), true) = (&location, ours) {
            passes.push((path.clone(), host.to_owned()));
        }
    }
    passes
}
