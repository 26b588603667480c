//! Carries one request to a replica and its answer back, trying again only where that is safe.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use domain::route::Reason;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use crate::attempts::Attempts;
use crate::body::{Answer, ClientBody, Held, Outgoing};
use crate::facts::{self, Flight};
use crate::headers;
use crate::limits::{Cut, Limited, Meter, Progress};
use crate::live::Route;
use crate::pick::others;
use crate::pool::Lease;
use crate::replica::Replica;
use crate::upgrade;
use crate::upstream_h2;
use crate::worker::Worker;

/// Forwards `request` to one of `replicas`; the status of the error page if none answered.
pub async fn forward(
    worker: &Rc<Worker>,
    route: &Route,
    replicas: &[Arc<Replica>],
    client: &headers::Client,
    mut request: Request<ClientBody>,
    mut flight: Flight,
) -> Result<Response<Answer>, (Flight, StatusCode)> {
    let leaving = leaves_http(&request);
    let grpc = upstream_h2::is_grpc(&request);
    let down = leaving.then(|| hyper::upgrade::on(&mut request));
    let progress = Rc::new(Progress::default());
    let meter = Meter::new(route.max_body, worker.shared.limits.idle);
    let request = outgoing(request, client, leaving, meter, flight.meter(), &progress);
    let sent = match grpc {
        true => upstream_h2::send(worker, replicas, request, &mut flight)
            .await
            .map(|(response, load)| (response, Held::Stream { _load: load })),
        false => send(worker, replicas, request, &mut flight)
            .await
            .map(|(response, lease)| (response, Held::Connection(lease))),
    };
    let (mut response, held) = match sent {
        Ok(answered) => answered,
        Err(status) => {
            let cut = progress.cut().map(Cut::status);
            return Err((flight, cut.unwrap_or(status)));
        }
    };
    progress.answered();
    flight.answered(response.status().as_u16());
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    headers::incoming(response.headers_mut(), switching);
    if switching {
        let (Some(down), Held::Connection(lease)) = (down, held) else {
            return Err((flight, StatusCode::BAD_GATEWAY));
        };
        let websocket = upgrade::is_websocket(response.headers());
        let up = hyper::upgrade::on(&mut response);
        upgrade::start(worker, flight, lease, websocket, down, up);
        return Ok(response.map(|_| Answer::bytes("", None)));
    }
    let endless = is_event_stream(response.headers());
    let cut = (endless || grpc).then(|| worker.ended(flight.service()));
    Ok(response.map(|body| {
        let answer = Answer::upstream(worker, body, held, flight);
        match cut {
            Some(cut) if grpc => answer.call(cut),
            Some(cut) => answer.stream(cut),
            None => answer,
        }
    }))
}

/// Whether the guard let the connection become a tunnel with this request: the two must agree.
pub fn leaves_http(request: &Request<ClientBody>) -> bool {
    request.version() == Version::HTTP_11
        && headers::wants_upgrade(request.headers())
        && request.body().is_end_stream()
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().starts_with("text/event-stream"))
}

fn outgoing(
    request: Request<ClientBody>,
    client: &headers::Client,
    leaving: bool,
    meter: Meter,
    counted: facts::Meter,
    progress: &Rc<Progress>,
) -> Request<Outgoing> {
    let http2 = request.version() == Version::HTTP_2;
    let (mut parts, body) = request.into_parts();
    headers::outgoing(&mut parts.headers, client, leaving);
    parts.version = Version::HTTP_11;
    // A client may name the whole address; a server is asked for the path only.
    if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().unwrap_or_default();
    }
    parts.extensions.clear();
    if !body.is_end_stream() && !parts.headers.contains_key(CONTENT_LENGTH) {
        // Said aloud: with some methods hyper takes silence for an empty body.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let body = match body.is_end_stream() {
        true => Outgoing::Empty,
        false => {
            if !headers::has_content(parts.method.as_str().as_bytes()) {
                parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Outgoing::Client(Limited::new(body, meter, counted, progress.clone(), http2).into())
        }
    };
    Request::from_parts(parts, body)
}

/// Sends `request`. It goes out a second time only if it was never written, or if it is a GET or HEAD
/// without a body that got no byte of an answer.
async fn send(
    worker: &Rc<Worker>,
    replicas: &[Arc<Replica>],
    mut request: Request<Outgoing>,
    flight: &mut Flight,
) -> Result<(Response<Incoming>, Lease), StatusCode> {
    let repeatable = is_repeatable(&request);
    let limit = worker.shared.limits.answer;
    let mut attempts = Attempts::default();
    loop {
        let Some(replica) = attempts.pick(replicas, || worker.ids.next()) else {
            flight.because(Reason::NoReplica);
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        let began = Instant::now();
        let pooled = if attempts.fresh() { None } else { worker.pool.take(replica, !repeatable) };
        let mut lease = match pooled {
            Some(lease) => {
                flight.connected(replica.address, None);
                lease
            }
            None => match worker.pool.connect(replica).await {
                Ok(lease) => {
                    flight.connected(replica.address, Some(began.elapsed()));
                    lease
                }
                Err(fault) => {
                    if attempts.missed(worker, replicas, replica, fault, flight).await {
                        continue;
                    }
                    return Err(StatusCode::SERVICE_UNAVAILABLE);
                }
            },
        };
        let copy = repeatable.then(|| duplicate(&request));
        let sent = tokio::select! {
            biased;
            sent = timeout(limit, lease.send(request)) => sent,
            // It hangs: what can be asked again is not left waiting while another replica is well.
            () = replica.hangs(), if repeatable && others(replicas, replica) => {
                let Some(copy) = copy else { return Err(StatusCode::GATEWAY_TIMEOUT) };
                if !attempts.broke(worker, replica, flight).await {
                    return Err(StatusCode::GATEWAY_TIMEOUT);
                }
                request = copy;
                continue;
            }
        };
        let mut error = match sent {
            Err(_) => return Err(StatusCode::GATEWAY_TIMEOUT),
            Ok(Ok(response)) => return Ok((response, lease)),
            Ok(Err(error)) => error,
        };
        let back = error.take_message();
        if back.is_some() && lease.reused() {
            // The connection had died before anything was written: as good as not having been there.
            request = back.ok_or(StatusCode::BAD_GATEWAY)?;
            continue;
        }
        let garbled = error.error().is_parse();
        let Some(next) = back.or(copy.filter(|_| !garbled)) else {
            if garbled {
                flight.because(Reason::Garbled);
            }
            return Err(StatusCode::BAD_GATEWAY);
        };
        request = next;
        if !attempts.broke(worker, replica, flight).await {
            return Err(StatusCode::BAD_GATEWAY);
        }
    }
}

fn is_repeatable(request: &Request<Outgoing>) -> bool {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let upgrade = request.headers().contains_key(http::header::UPGRADE);
    safe && !upgrade && matches!(request.body(), Outgoing::Empty)
}

fn duplicate(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
