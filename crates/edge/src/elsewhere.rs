//! Requests that no slot answers, whatever their route: challenges of an ACME server, plain requests where
//! HTTPS is wanted, and requests on a connection that was made for another host.

use std::net::SocketAddr;

use domain::route::Reason;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use crate::accept::Arrival;
use crate::body::Answer;
use crate::error_page::{Style, page};
use crate::headers;
use crate::live::Live;
use crate::tls::Tls;
use crate::worker::{Shared, Worker};

/// Where ACME servers look for an HTTP-01 challenge (RFC 8555, 8.3).
const CHALLENGES: &str = "/.well-known/acme-challenge/";

enum Elsewhere {
    Challenge(String),
    Https(SocketAddr),
    Misdirected,
}

/// Whether a request for `path` at `host`, as [`crate::live::host_name`] gives it, is for [`answer`]. Cheap
/// enough to ask for each request.
pub fn concerns(shared: &Shared, arrival: &Arrival, host: &str, path: &str) -> bool {
    find(shared, arrival, host, path, None).is_some()
}

fn find(
    shared: &Shared,
    arrival: &Arrival,
    host: &str,
    path: &str,
    headers: Option<&HeaderMap>,
) -> Option<Elsewhere> {
    if let Some(token) = path.strip_prefix(CHALLENGES)
        && let Some(authorization) = shared.tls.load().http_challenge(token)
    {
        return Some(Elsewhere::Challenge(authorization.into()));
    }
    match &arrival.presented {
        Some(presented) => {
            let other = !presented.covers(host) && covered(&shared.tls.load(), host);
            (other && known(&shared.live.load(), host)).then_some(Elsewhere::Misdirected)
        }
        None => {
            let address = shared.https?;
            let wanted = shared.live.load().hosts.get(host)?.https;
            // A proxy in front of us may have ended the TLS.
            let came = |headers| arrival.client.came_by_https(&headers::claims(headers));
            (wanted && !headers.is_some_and(came)).then_some(Elsewhere::Https(address))
        }
    }
}

/// Whether a request names an address of HTTPS and came without TLS, as far as we see or are told by somebody whom
/// we believe (RFC 9110, 7.4).
fn pretends<B>(arrival: &Arrival, request: &Request<B>) -> bool {
    request.uri().scheme() == Some(&Scheme::HTTPS)
        && !arrival.client.came_by_https(&headers::claims(request.headers()))
}

fn covered(tls: &Tls, host: &str) -> bool {
    tls.covering(host).is_some()
}

fn known(live: &Live, host: &str) -> bool {
    live.hosts.contains_key(host)
}

/// The answer to a request that belongs to no slot; `None` for all others.
pub fn answer<B>(
    worker: &Worker,
    arrival: &Arrival,
    request: &Request<B>,
    host: &str,
    id: &HeaderValue,
) -> Option<Response<Answer>> {
    let found = find(&worker.shared, arrival, host, request.uri().path(), Some(request.headers()))
        .or_else(|| pretends(arrival, request).then_some(Elsewhere::Misdirected))?;
    let error = |status| page(status, id, Style::wanted(request.headers()), None);
    let reason = match found {
        Elsewhere::Challenge(_) => Reason::Challenge,
        Elsewhere::Https(_) => Reason::ToHttps,
        Elsewhere::Misdirected => Reason::Misdirected,
    };
    let response = match found {
        Elsewhere::Challenge(authorization) => {
            let mut response = Response::new(Answer::bytes(authorization, None));
            let kind = HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Elsewhere::Misdirected => error(StatusCode::MISDIRECTED_REQUEST),
        Elsewhere::Https(address) => {
            let mut response = error(StatusCode::PERMANENT_REDIRECT);
            match HeaderValue::try_from(secure_address(address, host, request)) {
                Ok(location) => response.headers_mut().insert(LOCATION, location),
                Err(_) => return Some(error(StatusCode::BAD_REQUEST)),
            };
            response
        }
    };
    Some(worker.turn_away(Some(host), reason, response))
}

/// The same address over HTTPS. `host` has no port; ours is added if it is not the usual one.
fn secure_address<B>(address: SocketAddr, host: &str, request: &Request<B>) -> String {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    match address.port() {
        443 => format!("https://{host}{path}"),
        port => format!("https://{host}:{port}{path}"),
    }
}
