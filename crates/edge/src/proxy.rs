//! One request from a client: checked, routed, answered by a replica, a file or an error page.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body, Incoming};

use crate::accept::Arrival;
use crate::body::Answer;
use crate::elsewhere;
use crate::error_page::{Style, page};
use crate::facts::Flight;
use crate::files::{self, Folders};
use crate::forward::{self, leaves_http};
use crate::guard::{Busy, State};
use crate::headers;
use crate::limits::{self, Cut};
use crate::live::{Acquired, NotRouted, Target, acquire, host_name};
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
    mut request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let busy = Busy::on(connection.state.clone());
    let id = headers::identify(
        request.headers_mut(),
        &connection.arrival.client,
        &connection.worker.ids,
    );
    let leaving = leaves_http(&request);
    let mut response = answer(&connection, request, &id).await;
    let stays = leaving && response.status() != StatusCode::SWITCHING_PROTOCOLS;
    // After a request to leave HTTP that was not granted, the guard does not look at the bytes any more.
    let last = response.extensions().get::<Last>().is_some();
    if last {
        connection.state.refused.store(true, Ordering::Relaxed);
    }
    if stays || last {
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
    request: Request<Incoming>,
    id: &HeaderValue,
) -> Response<Answer> {
    if request.method().as_str() == REFUSED {
        return refused(&request, id);
    }
    let style = Style::wanted(request.headers());
    let error = |flight: Option<Flight>, status| page(status, id, style, flight);
    let cut = |mut flight: Flight, status: StatusCode| {
        flight.answered(status.as_u16());
        last(error(Some(flight), status))
    };
    if request.method() == Method::TRACE {
        return error(None, StatusCode::METHOD_NOT_ALLOWED);
    }
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let host = host_name(host);
    let worker = &connection.worker;
    if let Some(response) = elsewhere::answer(worker, &connection.arrival, &request, &host, id) {
        return response;
    }
    let path = request.uri().path();
    let live = &worker.shared.live;
    let Acquired { flight, route } = match acquire(live, worker.index, &host, path) {
        Ok(acquired) => acquired,
        Err(NotRouted::NotLive) => return error(None, StatusCode::SERVICE_UNAVAILABLE),
        Err(NotRouted::UnknownHost | NotRouted::NoPreview | NotRouted::NoRoute) => {
            return error(None, StatusCode::NOT_FOUND);
        }
    };
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
            let sent =
                forward::forward(worker, &route, replicas, &connection.arrival.client, request, flight)
                    .await;
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

fn refused(request: &Request<Incoming>, id: &HeaderValue) -> Response<Answer> {
    let status = request.uri().path().trim_start_matches('/').parse().ok();
    let status = status.and_then(|code| StatusCode::from_u16(code).ok());
    last(page(status.unwrap_or(StatusCode::BAD_REQUEST), id, Style::Json, None))
}
