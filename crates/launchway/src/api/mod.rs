//! The door for programs: JSON over HTTP on a Unix socket, version 1.
//!
//! ```text
//! GET  /v1/status?environment=     /v1/history?environment=    /v1/runs    /v1/runs/{id}    /v1/rollouts/{id}
//!      /v1/why?run=&step=    /v1/alive
//! GET  /v1/runs/{id}/watch   /v1/rollouts/{id}/watch   /v1/events?after=&follow=   /v1/logs?...   lines of JSON
//! POST /v1/runs  /v1/deploy  /v1/promote  /v1/approve  /v1/reject  /v1/abort  /v1/rollback  /v1/exec  /v1/down
//! ```
//! After the request of `/v1/exec` its body goes on with what the command reads.
//! Whoever may connect is who the kernel says ([`peer`]); what they may do is decided in `domain`.

mod answer;
mod change;
mod exec;
mod feed;
mod lifetime;
mod look;
mod looks;
mod meter;
mod peer;
pub mod wire;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use control::control::Handle;
use control::world::World;
use domain::Timestamp;
use engine::ProcessEngine;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

pub use lifetime::everything as take_everything_down;
pub use look::{edge_alone, history_of};
pub use looks::Looks;
pub use meter::Meter;
pub use peer::identity;

use answer::Problem;
use peer::Peer;

/// The socket's name in the state folder.
pub const SOCKET: &str = "api.sock";
/// Of a Unix socket's address, without the closing zero.
const LONGEST_PATH: usize = 107;
/// Of a request's body.
const BODY: usize = 64 * 1024;
/// For everything that does not follow something.
const DEADLINE: Duration = Duration::from_secs(60);

/// What every request may need.
#[derive(Clone)]
pub struct Api {
    pub handle: Handle,
    pub world: Arc<World>,
    pub engine: Arc<ProcessEngine>,
    pub meter: Arc<Meter>,
    pub looks: Arc<Looks>,
    pub since: Timestamp,
    /// Ends the server.
    pub stop: CancellationToken,
    /// Everything was taken down: the edge must not outlive the server.
    pub gone: CancellationToken,
}

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error(
        "the path {path} is {length} bytes long, and the address of a Unix socket has at most \
         {LONGEST_PATH}; choose a state folder with a shorter path with --state"
    )]
    TooLong { path: PathBuf, length: usize },
    #[error("opening the API's socket {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
}

/// Refuses a state folder whose sockets would have no address.
pub fn check_length(state: &Path) -> Result<(), ApiError> {
    // The edge's own is the longest of them, with the longest process id that Linux has.
    let path = control::server::edge_folder(state).join("control-4194304.sock");
    let length = path.as_os_str().len();
    if length > LONGEST_PATH { Err(ApiError::TooLong { path, length }) } else { Ok(()) }
}

/// Opens the socket in place of one that a dead server left: the state folder's lock is ours.
pub fn open(state: &Path) -> Result<UnixListener, ApiError> {
    let path = state.join(SOCKET);
    listener(state, &path).map_err(|source| ApiError::Open { path, source })
}

fn listener(state: &Path, path: &Path) -> io::Result<UnixListener> {
    let fresh = state.join("api.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    // The folder's group may use it too: `chgrp` of the folder lets a team in. Without the right to
    // give it to that group it stays the server's own.
    let _own_only = chown(&fresh, None, Some(std::fs::metadata(state)?.gid()));
    std::fs::set_permissions(&fresh, Permissions::from_mode(0o660))?;
    std::fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Answers until the server stops.
pub async fn serve(listener: UnixListener, api: Api) -> io::Result<()> {
    let stop = api.stop.clone();
    let service = router(api).into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(api: Api) -> Router {
    let prompt = Router::new()
        .route("/v1/status", get(look::status))
        .route("/v1/history", get(look::history))
        .route("/v1/runs", get(look::runs).post(change::run))
        .route("/v1/runs/{id}", get(look::run))
        .route("/v1/rollouts/{id}", get(look::rollout))
        .route("/v1/why", get(look::why))
        // Asks nothing of anybody: that it is answered is the answer.
        .route("/v1/alive", get(|| async {}))
        .route("/v1/deploy", post(change::deploy))
        .route("/v1/promote", post(change::promote))
        .route("/v1/approve", post(change::approve))
        .route("/v1/reject", post(change::reject))
        .route("/v1/abort", post(change::abort))
        .route("/v1/rollback", post(change::rollback))
        .layer(axum::middleware::from_fn(in_time));
    // These take as long as what they follow; they end with their client.
    let patient = Router::new()
        .route("/v1/runs/{id}/watch", get(feed::run))
        .route("/v1/rollouts/{id}/watch", get(feed::rollout))
        .route("/v1/events", get(feed::events))
        .route("/v1/logs", get(feed::logs))
        .route("/v1/exec", post(exec::exec))
        .route("/v1/down", post(lifetime::down));
    prompt
        .merge(patient)
        .fallback(|| async { Problem::missing("there is no such path; see /v1/status") })
        .layer(DefaultBodyLimit::max(BODY))
        .with_state(api)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::late(DEADLINE).into_response(),
    }
}
