//! `launchway check`: what would happen in each environment, or every mistake at once.

use std::collections::BTreeMap;
use std::fmt::Write;

use domain::config::{
    Build, Built, CertificateSource, ChallengeKind, EngineKind, Environment, Note, Project, Scan,
    Service, ServiceKind, Severity, Step, Tls,
};
use domain::slot::{Launch, Probe};
use domain::units::Span;
use serde_json::json;

use super::{Exit, Failure, Globals, Outcome, print, print_json, project};

/// Check the configuration and print what would happen in each environment
#[derive(clap::Args)]
#[command(after_help = "Examples:
  launchway check                 check the project in this folder
  launchway -C shop check --json  check another one, for a program
  launchway check --schema        print the JSON Schema of launchway.yaml, for an editor

Ends with 0 when the project is right and with 2 when there is a mistake.")]
pub struct Args {
    /// Print the JSON Schema of launchway.yaml
    #[arg(long)]
    schema: bool,
}

/// Runs the verb.
pub async fn run(args: Args, globals: &Globals) -> Outcome {
    if args.schema {
        print_json(&domain::config::schema())?;
        return Ok(Exit::Ok);
    }
    match project::load(&globals.directory) {
        Ok(reading) if globals.json => {
            print_json(&json!({
                "ok": true,
                "project": reading.project,
                "artifacts": artifacts(&reading.project),
                "notes": reading.notes,
            }))?;
        }
        Ok(reading) => print(&plan(&reading.project, &reading.notes))?,
        Err(Failure::Mistakes(all)) if globals.json => {
            let mistakes: Vec<_> = all.iter().map(|misread| &misread.mistake).collect();
            print_json(&json!({ "ok": false, "mistakes": mistakes }))?;
            return Ok(Exit::Usage);
        }
        Err(failure) => return Err(failure),
    }
    Ok(Exit::Ok)
}

/// What each environment runs, for a program.
fn artifacts(project: &Project) -> BTreeMap<&str, &'static str> {
    let one = |e: &'_ Environment| match e.engine {
        EngineKind::Process => "folder",
        EngineKind::Docker => "image",
    };
    project.environments.iter().map(|e| (e.name.as_str(), one(e))).collect()
}

/// The whole plan, for people.
fn plan(project: &Project, notes: &[Note]) -> String {
    let mut page = Page::default();
    page.title(&format!("{}: no mistakes", project.app));
    page.title("services");
    for (name, service) in &project.services {
        for (n, line) in served(project, service).iter().enumerate() {
            page.row(if n == 0 { name.as_str() } else { "" }, line);
        }
    }
    page.title("routes");
    for (prefix, target) in &project.routes {
        let limit = target.max_body.map(|size| format!(", bodies of at most {size}"));
        page.row(prefix, &format!("{}{}", target.service, limit.unwrap_or_default()));
    }
    if let Some(registry) = &project.registry {
        page.title("registry");
        page.row("push", &registry.push);
    }
    build(&mut page, project);
    for environment in &project.environments {
        self::environment(&mut page, project, environment);
    }
    if !notes.is_empty() {
        page.title("notes");
    }
    for note in notes {
        let _ = writeln!(page.0, "  {}:{}:{}: {}", note.path, note.line, note.column, note.message);
    }
    page.0
}

/// Titles, and rows of two columns below them.
#[derive(Default)]
struct Page(String);

impl Page {
    fn title(&mut self, title: &str) {
        let gap = if self.0.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.0, "{gap}{title}");
    }

    fn row(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "  {name:<11} {text}");
    }
}

/// How a service is made and run, a line each.
fn served(project: &Project, service: &Service) -> Vec<String> {
    let built = match &service.kind {
        ServiceKind::Backing { image } => {
            return vec![format!("{image}, backing: both slots share it")];
        }
        ServiceKind::Built(built) => built,
    };
    let folder = if built.context.is_empty() { "the project's folder" } else { &built.context };
    let mut lines = vec![format!("built from {folder}")];
    if project.runs_on(EngineKind::Docker) {
        lines.push(image(built));
    }
    let native = built.native.as_ref().filter(|_| project.runs_on(EngineKind::Process));
    if let Some(native) = native {
        lines.extend(native.setup.iter().map(|setup| format!("setup    {setup}")));
        lines.push(match &native.launch {
            Launch::Static(files) if files.as_os_str().is_empty() => {
                "static   everything, served by the edge".into()
            }
            Launch::Static(files) => format!("static   {}, served by the edge", files.display()),
            Launch::Command(command) => format!("run      {command}"),
            Launch::Container(_) => "run      as a container".into(),
        });
    }
    let runs = native.is_none_or(|native| matches!(native.launch, Launch::Command(_)));
    if runs || project.runs_on(EngineKind::Docker) {
        lines.push(format!("ready    when {}", ready(built)));
    }
    lines.extend(built.migrate.iter().map(|migrate| format!("migrate  {migrate}")));
    lines
}

/// What the image is made of.
fn image(built: &Built) -> String {
    let options = &built.options;
    let file = if options.inline.is_some() { "the Compose file" } else { &built.dockerfile };
    let target = options.target.iter().map(|target| format!(", stage {target}"));
    let args: Vec<&str> = options.args.keys().map(String::as_str).collect();
    let args = (!args.is_empty()).then(|| format!(", with {}", args.join(", ")));
    let secrets: Vec<&str> = options.secrets.iter().map(|secret| secret.id.as_str()).collect();
    let secrets = (!secrets.is_empty()).then(|| format!(", secrets {}", secrets.join(", ")));
    std::iter::once(format!("image    by {file}"))
        .chain(target)
        .chain(args)
        .chain(secrets)
        .collect()
}

fn ready(built: &Built) -> String {
    match &built.health.probe {
        Probe::Http(path) => format!("GET {path} answers 2xx"),
        Probe::Tcp => "its port accepts a connection".into(),
    }
}

fn build(page: &mut Page, project: &Project) {
    let build = &project.build;
    page.title(&format!("build, at most {} steps of a stage side by side", build.parallel));
    let ours: Vec<&str> = project.built().map(|(name, ..)| name.as_str()).collect();
    page.row("analyze", &steps(&build.analyze));
    page.row("test", &steps(&build.test));
    page.row("images", &ours.join(", "));
    page.row("integrate", &steps(&build.integrate));
    page.row("scan", &scan(build));
}

fn steps(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "nothing".into();
    }
    let step = |step: &Step| match step.with.as_slice() {
        [] => step.name.to_string(),
        with => {
            let with: Vec<&str> = with.iter().map(|name| name.as_str()).collect();
            format!("{} (with {})", step.name, with.join(", "))
        }
    };
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

fn scan(build: &Build) -> String {
    let Scan::On { fail_on, steps, rules } = &build.scan else {
        return "off, as the file says".into();
    };
    let ours: Vec<&str> = rules.inspections().map(|inspection| inspection.step()).collect();
    let looks = match (ours.is_empty(), steps.is_empty()) {
        (true, true) => {
            return "refuses every release: no scanner is configured (add `scan.steps`, or write `scan: off`)"
                .into();
        }
        (true, false) => self::steps(steps),
        (false, true) => ours.join(", "),
        (false, false) => format!("{}, {}", ours.join(", "), self::steps(steps)),
    };
    let worse = if *fail_on == Severity::Critical { "" } else { " or worse" };
    let fixable = if rules.fixable_only {
        ", vulnerabilities only where a fixed version is known"
    } else {
        ""
    };
    format!("{looks}; refuses on findings that are {}{worse}{fixable}", fail_on.as_str())
}

fn environment(page: &mut Page, project: &Project, environment: &Environment) {
    page.title(&format!("environment {}", environment.name));
    page.row("engine", &engine(project, environment));
    page.row(
        "host",
        &format!("{}, the idle slot at {}", environment.host, environment.preview_host()),
    );
    if !environment.names.is_empty() {
        page.row("names", &format!("{} too", environment.names.join(", ")));
    }
    if let Some(tls) = &environment.tls {
        page.row("tls", &secured(tls));
    }
    page.row("begins", &begins(environment));
    page.row("replicas", &replicas(project, environment));
    for (service, file) in &environment.load {
        page.row("data", &format!("{service} begins with {file}"));
    }
    if !environment.variables.is_empty() {
        let names: Vec<&str> = environment.variables.keys().map(String::as_str).collect();
        page.row("variables", &names.join(", "));
    }
    for (n, gate) in gates(project, environment).iter().enumerate() {
        page.row(if n == 0 { "then" } else { "" }, &format!("{}. {gate}", n + 1));
    }
}

/// What runs it, and of which artifacts.
fn engine(project: &Project, environment: &Environment) -> String {
    let before = environment.after.as_ref().and_then(|name| project.environment(name));
    let mixed = before.filter(|before| before.engine != environment.engine).map(|before| {
        format!("; {} tests other artifacts, as `mixed_artifacts` allows", before.name)
    });
    let runs = match environment.engine {
        EngineKind::Process => "process: folders, built once",
        EngineKind::Docker => "docker: images, built once and run by digest",
    };
    format!("{runs}{}", mixed.unwrap_or_default())
}

fn secured(tls: &Tls) -> String {
    let redirect = if tls.redirect { "plain HTTP is sent there" } else { "plain HTTP stays" };
    match &tls.certificate {
        CertificateSource::Files { certificate, key } => {
            format!("certificate {certificate} with key {key}; {redirect}")
        }
        CertificateSource::Acme(acme) => {
            let challenge = match acme.challenge {
                ChallengeKind::Http01 => "http-01",
                ChallengeKind::TlsAlpn01 => "tls-alpn-01",
            };
            format!("certificate from {} by {challenge}; {redirect}", acme.directory)
        }
    }
}

fn begins(environment: &Environment) -> String {
    match (&environment.branch, &environment.after) {
        (Some(branch), _) => format!("by itself, after every green build of `{branch}`"),
        (None, Some(after)) => format!("by itself, when a release was good in {after}"),
        (None, None) => format!("when somebody says `launchway deploy {}`", environment.name),
    }
}

fn replicas(project: &Project, environment: &Environment) -> String {
    let count = |(name, _, built): (_, &Service, &Built)| {
        let name: &domain::ServiceName = name;
        let files = built.native.as_ref().map(|native| &native.launch);
        if let (Some(Launch::Static(_)), EngineKind::Process) = (files, environment.engine) {
            return format!("{name} static");
        }
        format!("{name} {}", environment.replicas.get(name).unwrap_or(&built.replicas))
    };
    project.built().map(count).collect::<Vec<_>>().join(", ")
}

/// What a release passes on its way into an environment, in order.
fn gates(project: &Project, environment: &Environment) -> Vec<String> {
    // Nothing is touched before somebody has said yes.
    let mut gates: Vec<String> = approval(environment).into_iter().collect();
    let migrated: Vec<&str> = project
        .built()
        .filter(|(_, _, built)| built.migrate.is_some())
        .map(|(name, ..)| name.as_str())
        .collect();
    if !migrated.is_empty() {
        gates.push(format!("migrate {}, once, under a lock", migrated.join(", ")));
    }
    gates.push("health: every replica of the idle slot is ready".into());
    if !environment.verify.e2e.is_empty() {
        gates.push(format!("end-to-end tests: {}", steps(&environment.verify.e2e)));
    }
    gates.extend(performance(environment));
    gates.push(format!(
        "switch blue-green; streams stay on the old slot for at most {}, then are closed over {}",
        Span(environment.drain),
        Span(environment.spread)
    ));
    if let Some(bake) = &environment.bake {
        let slower =
            bake.p99.map_or(String::new(), |factor| format!(" or p99 above {factor} of before"));
        let errors = format!("errors above {}", bake.errors);
        gates.push(format!(
            "bake for {}: rolled back by itself on {errors}{slower}",
            Span(bake.duration)
        ));
    }
    gates.push(format!(
        "keep the old slot warm for {}, for a rollback at once",
        Span(environment.keep)
    ));
    gates
}

fn performance(environment: &Environment) -> Option<String> {
    let test = environment.verify.performance.as_ref()?;
    let mut limits = Vec::new();
    limits.extend(test.p95.map(|limit| format!("p95 at most {}", Span(limit))));
    limits.extend(test.p99.map(|limit| format!("p99 at most {}", Span(limit))));
    limits.extend(
        test.versus_live.map(|factor| format!("at most {factor} of live, measured side by side")),
    );
    limits.push(format!("errors at most {}", test.errors));
    let (rate, time, paths) = (test.rate, Span(test.duration), test.paths.join(", "));
    Some(format!("performance at {rate} for {time} on {paths}: {}", limits.join(", ")))
}

fn approval(environment: &Environment) -> Option<String> {
    let approval = environment.approval.as_ref()?;
    let author = if approval.not_author { ", never the author" } else { "" };
    let (from, within) = (approval.from.join(" or "), Span(approval.expires));
    Some(format!("approval by {from}{author}, within {within}"))
}
