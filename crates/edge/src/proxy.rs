//! One request from a client: checked, routed, answered by a replica, a file or an error page.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use domain::route::{Reason, Verb};
use http::header::{ACCEPT, CONNECTION, HOST, HeaderName, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;

use crate::accept::Arrival;
use crate::access_log::{AccessLog, Line, Parts};
use crate::body::{Answer, ClientBody};
use crate::elsewhere;
use crate::error_page::{Style, page};
use crate::facts::Flight;
use crate::files::{self, Folders};
use crate::forward::{self, leaves_http};
use crate::guard::{Busy, State};
use crate::headers;
use crate::limits::{self, Cut};
use crate::live::{Acquired, NotRouted, Target, acquire, host_name};
use crate::pause;
use crate::strict::REFUSED;
use crate::worker::Worker;

/// What all requests of one client connection share.
pub struct Connection {
    pub worker: Rc<Worker>,
    pub arrival: Arrival,
    pub state: Arc<State>,
}

/// Answers one request. There is always an answer.
pub async fn handle(
    connection: Rc<Connection>,
    mut request: Request<ClientBody>,
) -> Result<Response<Answer>, Infallible> {
    let busy = Busy::on(connection.state.clone());
    let id = headers::identify(
        request.headers_mut(),
        &connection.arrival.client,
        &connection.worker.ids,
    );
    let leaving = leaves_http(&request);
    let http2 = request.version() == Version::HTTP_2;
    let log = connection.worker.shared.access_log.as_ref();
    let began = log.map(|_| Instant::now());
    let mut line = log.map(|log| log_line(log.clone(), &connection, &request, &id));
    let mut response = answer(&connection, request, &id, &mut line).await;
    if let (Some(line), Some(began)) = (line, began) {
        let reason = response.extensions().get::<Reason>().copied();
        line.end(None, response.status().as_u16(), reason, (0, 0), began.elapsed());
    }
    let stays = leaving && response.status() != StatusCode::SWITCHING_PROTOCOLS;
    // After a request to leave HTTP that was not granted, the guard does not look at the bytes any more.
    let last = response.extensions().get::<Last>().is_some();
    let upgraded = leaving && !stays;
    // Another edge took over: HTTP/1 connections move to it here, HTTP/2 ones by their own goodbye.
    let moves = connection.worker.shared.leaving() && !upgraded && !http2;
    if last || moves {
        connection.state.refused.store(true, Ordering::Relaxed);
    }
    if (stays || last || moves) && !http2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.headers_mut().insert(headers::REQUEST_ID, id);
    Ok(response.map(|body| body.keeping(busy)))
}

/// Marks the answer to a request that was refused, whole or with its body under way: the last one of its
/// connection.
#[derive(Clone)]
struct Last;

fn last(mut response: Response<Answer>) -> Response<Answer> {
    response.extensions_mut().insert(Last);
    response
}

async fn answer(
    connection: &Connection,
    request: Request<ClientBody>,
    id: &HeaderValue,
    line: &mut Option<Line>,
) -> Response<Answer> {
    if request.method().as_str() == REFUSED {
        return refused(&connection.worker, &request, id);
    }
    // Read only for an error: most requests have none.
    let accept = request.headers().get(ACCEPT).cloned();
    let error =
        |flight: Option<Flight>, status| page(status, id, Style::of(accept.as_ref()), flight);
    let cut = |mut flight: Flight, status: StatusCode| {
        flight.answered(status.as_u16());
        last(error(Some(flight), status))
    };
    if request.method() == Method::TRACE {
        let response = error(None, StatusCode::METHOD_NOT_ALLOWED);
        return connection.worker.turn_away(None, Reason::Method, response);
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let host = host_name(host);
    let worker = &connection.worker;
    if let Some(response) = elsewhere::answer(worker, &connection.arrival, &request, &host, id) {
        return response;
    }
    let path = request.uri().path();
    let live = &worker.shared.live;
    let acquired = loop {
        match acquire(live, worker.index, &host, path) {
            Err(NotRouted::Paused) if pause::hold(&worker.shared, &host, path).await.is_ok() => {}
            acquired => break acquired,
        }
    };
    let Acquired { mut flight, route } = match acquired {
        Ok(acquired) => acquired,
        Err(not_routed) => {
            let reason = not_routed.reason();
            let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::NOT_FOUND);
            return worker.turn_away(Some(&host), reason, error(None, status));
        }
    };
    flight.asked(Verb::of(request.method().as_str().as_bytes()));
    if let Some(line) = line.take() {
        flight.logged(line);
    }
    let sized = request.body().size_hint().upper();
    if !sized.is_none_or(|length| limits::fits(length, route.max_body)) {
        return cut(flight, Cut::TooLarge.status());
    }
    match &route.target {
        Target::Files { folder, other } => {
            let folders = Folders { prefix: &route.prefix, own: folder, other: other.as_deref() };
            files::answer(&folders, &request, flight).unwrap_or_else(|(mut flight, status)| {
                flight.answered(status.as_u16());
                error(Some(flight), status)
            })
        }
        Target::Replicas(replicas) => {
            let client = &connection.arrival.client;
            let sent = forward::forward(worker, &route, replicas, client, request, flight).await;
            sent.unwrap_or_else(|(mut flight, status)| {
                if Cut::is_behind(status) {
                    return cut(flight, status);
                }
                flight.unreachable(status.as_u16());
                error(Some(flight), status)
            })
        }
    }
}

fn refused(worker: &Worker, request: &Request<ClientBody>, id: &HeaderValue) -> Response<Answer> {
    let status = request.uri().path().trim_start_matches('/').parse().ok();
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.unwrap_or(StatusCode::BAD_REQUEST);
    let reason = match status.as_u16() {
        408 => Reason::SlowHead,
        414 | 431 => Reason::HeadTooLarge,
        _ => Reason::Malformed,
    };
    last(worker.turn_away(None, reason, page(status, id, Style::Json, None)))
}

/// What the access log tells of a request.
fn log_line(
    log: Arc<AccessLog>,
    connection: &Connection,
    request: &Request<ClientBody>,
    id: &HeaderValue,
) -> Line {
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let client = connection.arrival.client.address(&headers::claims(headers)).to_string();
    let refused = request.method().as_str() == REFUSED;
    let parts = Parts {
        request_id: id.as_bytes(),
        traceparent: text(headers::TRACEPARENT),
        client: client.as_bytes(),
        // Of a refused head nothing else is known to be true.
        method: if refused { b"" } else { request.method().as_str().as_bytes() },
        host: text(HOST),
        path: if refused { b"" } else { request.uri().path().as_bytes() },
        user_agent: text(USER_AGENT),
    };
    let protocol = match request.version() {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    Line::new(log, protocol, parts)
}
