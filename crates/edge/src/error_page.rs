//! Answers that the edge makes itself: a status, a sentence and the request's id, nothing about the inside.

use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::body::Answer;
use crate::facts::Flight;

/// The form in which the client wants to read an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Html,
    Json,
}

impl Style {
    /// The one that a request with these fields wants.
    pub fn wanted(headers: &HeaderMap) -> Self {
        Self::of(headers.get(ACCEPT))
    }

    /// HTML for who asks for it before JSON: browsers.
    pub fn of(accept: Option<&HeaderValue>) -> Self {
        let accept = accept.and_then(|accept| accept.to_str().ok()).unwrap_or("");
        match (accept.find("text/html"), accept.find("json")) {
            (Some(html), Some(json)) if html < json => Self::Html,
            (Some(_), None) => Self::Html,
            _ => Self::Json,
        }
    }
}

/// The page for `status`.
pub fn page(
    status: StatusCode,
    id: &HeaderValue,
    style: Style,
    flight: Option<Flight>,
) -> Response<Answer> {
    let (code, title) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let (says, id) = (sentence(status), id.to_str().unwrap_or(""));
    let (kind, text) = match style {
        Style::Html => (
            "text/html; charset=utf-8",
            format!(
                "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {title}</title>\n\
                 <h1>{title}</h1>\n<p>{says}</p>\n<p>Request <code>{id}</code></p>\n</html>\n"
            ),
        ),
        Style::Json => (
            "application/json",
            format!(
                "{{\"status\":{code},\"error\":\"{title}\",\"message\":\"{says}\",\"request_id\":\"{id}\"}}\n"
            ),
        ),
    };
    let mut response = Response::new(Answer::bytes(text, flight));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        308 => "This address is reached over HTTPS only.",
        400 => "The request is not valid HTTP, or could be read in two ways.",
        404 => "There is nothing at this address.",
        405 => "This address cannot be used in this way.",
        408 => "The request took too long to arrive.",
        411 => "The request does not say how long its body is.",
        413 => "The request's body is larger than this address takes.",
        414 | 431 => "The request is too large.",
        421 => "This connection does not lead to the host that the request names.",
        501 => "The request's body comes in a form that is not known here.",
        502 => "The service broke off before it answered.",
        503 => "The service cannot be reached now. Try again in a moment.",
        504 => "The service did not answer in time.",
        505 => "This version of HTTP is not spoken here.",
        _ => "The request cannot be answered.",
    }
}
