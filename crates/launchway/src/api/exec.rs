//! A command beside a service. The body of the request is an [`ExecRequest`] and then whatever the command reads from its
//! standard input, to the end of the body; the answer comes when the command has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use domain::app::App;
use domain::{Color, EnvironmentName, ServiceName};
use engine::Input;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame};
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::answer::Problem;
use super::change::known;
use super::wire::{ExecAnswer, ExecRequest};
use super::{Api, BODY};

/// Of what a command reads, between the client and it.
const AT_ONCE: usize = 64 * 1024;
/// For the client to end what it says, once the command has ended.
const LINGER: Duration = Duration::from_secs(5);

type Carrying = Pin<Box<dyn Future<Output = ()> + Send>>;

pub async fn exec(State(api): State<Api>, request: Request) -> Response {
    let mut body = request.into_body();
    let (asked, first) = match asked(&mut body).await {
        Ok(read) => read,
        Err(problem) => return problem.into_response(),
    };
    let (to, from) = tokio::io::duplex(AT_ONCE);
    let mut carrying: Carrying = Box::pin(carry(first, body, to));
    let running = run(&api, asked, Box::new(from));
    tokio::pin!(running);
    let answer = tokio::select! {
        answer = &mut running => answer,
        () = &mut carrying => {
            carrying = Box::pin(std::future::ready(()));
            running.await
        }
    };
    let carrying = Box::pin(async {
        let _whoever_goes_on_is_cut_off = tokio::time::timeout(LINGER, carrying).await;
    });
    answer.into_response().map(|answer| Body::new(Lingering { answer, carrying }))
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

async fn run(api: &Api, asked: ExecRequest, input: Input) -> Result<Json<ExecAnswer>, Problem> {
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
    let engine = &api.world.engine;
    let ran = engine.exec(&environment, slot, &asked.service, &asked.command, input).await?;
    Ok(Json(ExecAnswer { exit: ran.exit, output: ran.output }))
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
async fn carry(first: Bytes, mut body: Body, to: DuplexStream) {
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
            // A client that went away did not say that this was all of it: its command is stopped.
            Some(Err(_)) => return std::future::pending().await,
            None => return,
        };
    }
}

/// An answer that ends no sooner than the request: whoever still writes could not read it else.
struct Lingering {
    answer: Body,
    carrying: Carrying,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(frame) = ready!(Pin::new(&mut self.answer).poll_frame(context)) {
            return Poll::Ready(Some(frame));
        }
        self.carrying.as_mut().poll(context).map(|()| None)
    }
}
