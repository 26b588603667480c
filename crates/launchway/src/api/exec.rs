//! A command beside a service. The body of the request is an [`ExecRequest`] and then whatever the command reads from its
//! standard input, to the end of the body; the answer is a line for each [`ExecEvent`], as it comes.

use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use domain::app::App;
use domain::slot::Exit;
use domain::{Color, EnvironmentName, ServiceName};
use engine::{Said, Streams};
use http_body_util::BodyExt;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{interval, timeout};

use super::answer::Problem;
use super::change::known;
use super::feed::lines;
use super::wire::{ExecEvent, ExecRequest};
use super::{Api, BODY};

/// Of what a command reads, between the client and it.
const AT_ONCE: usize = 64 * 1024;
/// Pieces of what it writes, between it and the client.
const QUEUE: usize = 4;
/// For the client to end what it says, once the command has ended.
const LINGER: Duration = Duration::from_secs(5);
/// A client that went away with something left to say is noticed only by writing to it.
const PULSE: Duration = Duration::from_secs(1);

/// The client went away before it had said all.
struct Gone;

pub async fn exec(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let mut body = request.into_body();
    let (asked, first) = asked(&mut body).await?;
    let (to, from) = channel(QUEUE);
    tokio::spawn(async move { attend(&api, asked, (first, body), &to).await });
    Ok(lines(from))
}

/// Runs the command while its client is there. The answer ends no sooner than the request: whoever still writes could
/// not read it else.
async fn attend(api: &Api, asked: ExecRequest, said: (Bytes, Body), to: &Sender<ExecEvent>) {
    let (pipe, input) = tokio::io::duplex(AT_ONCE);
    let mut carrying = pin!(carry(said, pipe));
    let mut carried = false;
    let last = {
        let mut running = pin!(run(api, asked, input, to));
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                whole = &mut carrying, if !carried => match whole {
                    Ok(()) => carried = true,
                    Err(Gone) => return,
                },
            }
        }
    };
    let last = last.map_or_else(ExecEvent::from, ExecEvent::Ended);
    if to.send(last).await.is_err() || carried {
        return;
    }
    tokio::select! {
        _whoever_goes_on_is_cut_off = timeout(LINGER, carrying) => {}
        () = to.closed() => {}
    }
}

/// The request at the beginning of the body, and what came after it already.
async fn asked(body: &mut Body) -> Result<(ExecRequest, Bytes), Problem> {
    let mut read = Vec::new();
    loop {
        let mut values = serde_json::Deserializer::from_slice(&read).into_iter();
        match values.next() {
            Some(Ok(request)) => {
                let rest = &read[values.byte_offset()..];
                let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                return Ok((request, Bytes::copy_from_slice(rest)));
            }
            Some(Err(error)) if !error.is_eof() => return Err(Problem::usage(error.to_string())),
            _ if read.len() > BODY => return Err(Problem::usage("the request is too long")),
            _ => {}
        }
        let piece = body.frame().await.ok_or_else(|| Problem::usage("the request is not whole"))?;
        let piece = piece.map_err(|error| Problem::usage(error.to_string()))?;
        read.extend_from_slice(&piece.into_data().unwrap_or_default());
    }
}

async fn run(
    api: &Api,
    asked: ExecRequest,
    input: DuplexStream,
    to: &Sender<ExecEvent>,
) -> Result<Exit, Problem> {
    let app = api.handle.app();
    let environment = known(&app, asked.environment.as_str())?;
    let live = app.environments.get(&environment).and_then(|state| state.live);
    let slot = asked.slot.or(live).ok_or_else(|| {
        Problem::conflict(format!("nothing is live in {environment}"))
            .help("name the slot with --slot, or deploy something there first")
    })?;
    if asked.command.is_empty() {
        return Err(Problem::usage("the command is missing"));
    }
    has_ours(&app, &environment, slot, &asked.service)?;
    let (output, said) = channel(QUEUE);
    let streams = Streams { input: Box::new(input), output };
    let engine = &api.world.engine;
    let running = engine.exec(&environment, slot, &asked.service, &asked.command, streams);
    let (exit, ()) = tokio::join!(running, pass_on(said, to));
    Ok(exit?)
}

/// Passes on what the command says while the client listens; nobody listening is what stops the command.
async fn pass_on(mut said: Receiver<Said>, to: &Sender<ExecEvent>) {
    let mut pulse = interval(PULSE);
    loop {
        let event = tokio::select! {
            said = said.recv() => match said {
                Some(said) => ExecEvent::from(said),
                None => return,
            },
            _ = pulse.tick() => ExecEvent::Runs,
            () = to.closed() => return,
        };
        if to.send(event).await.is_err() {
            return;
        }
    }
}

/// Refuses by name what no command can be run beside.
fn has_ours(
    app: &App,
    environment: &EnvironmentName,
    slot: Color,
    service: &ServiceName,
) -> Result<(), Problem> {
    let slots = app.environments.get(environment).map(|state| &state.slots);
    let release = slots.and_then(|slots| slots.get(&slot)).map(|slot| &slot.release);
    // Of a slot that only starts the engine knows more.
    let Some(project) = release.and_then(|release| app.projects.get(release)) else {
        return Ok(());
    };
    let ours: Vec<&str> = project.built().map(|(name, ..)| name.as_str()).collect();
    if ours.contains(&service.as_str()) {
        return Ok(());
    }
    let ours = ours.join(", ");
    if project.services.contains_key(service) {
        let error = format!("{service} is not built here: commands run beside {ours} only");
        return Err(Problem::usage(error).help(format!(
            "`launchway status {environment}` says where {service} answers, for a client of yours; \
             `launchway logs {environment} {service}` shows what it says"
        )));
    }
    let error =
        format!("there is no service {service} in {environment}; commands run beside {ours}");
    Err(Problem::missing(error))
}

/// Carries what the client says to the command. What nobody reads any more is thrown away.
async fn carry((first, mut body): (Bytes, Body), to: DuplexStream) -> Result<(), Gone> {
    let mut to = Some(to);
    let mut piece = first;
    loop {
        if let Some(pipe) = &mut to
            && pipe.write_all(&piece).await.is_err()
        {
            to = None;
        }
        piece = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(_)) => return Err(Gone),
            None => return Ok(()),
        };
    }
}
