//! Answers from a folder: static files of a slot, with validators, ranges and precompressed variants.
//!
//! Files are read on the worker's own thread, 32 KiB at a time, as long as the page cache has them; what the disk
//! must be asked for is read on a few threads apart ([`disk`]), so that a slow disk stalls no worker.

mod compress;
mod conditions;
mod disk;
mod names;
mod open;

use std::path::Path;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, LAST_MODIFIED, LOCATION, RANGE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::body::Answer;
use crate::error_page::Style;
use crate::facts::Flight;
use conditions::{Span, Validators};
use open::{Found, Opened};

pub use compress::Gzipped;
pub use open::FileBody;

/// Where a request's file may lie.
pub struct Folders<'a> {
    /// The prefix of the route, which is not part of the files' names.
    pub prefix: &'a str,
    pub own: &'a Path,
    /// The other slot's: only for assets whose name says their content.
    pub other: Option<&'a Path>,
}

/// Answers a request from `folders`; what the error page should say if there is nothing to answer.
pub fn answer<B>(
    folders: &Folders<'_>,
    request: &Request<B>,
    flight: Flight,
) -> Result<Response<Answer>, (Flight, StatusCode)> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err((flight, StatusCode::METHOD_NOT_ALLOWED));
    }
    let path = request.uri().path();
    let Some(name) = names::file_name(folders.prefix, path) else {
        return Err((flight, StatusCode::NOT_FOUND));
    };
    match find(folders, &name, request.headers()) {
        Found::File(opened) => Ok(respond(opened, request, flight)),
        Found::Folder => Ok(redirect(path, request.uri().query(), flight)),
        Found::Nothing => Err((flight, StatusCode::NOT_FOUND)),
    }
}

fn find(folders: &Folders<'_>, name: &str, headers: &HeaderMap) -> Found {
    let encodings = names::encodings(headers.get(ACCEPT_ENCODING));
    let wanted = if name.is_empty() || name.ends_with('/') {
        format!("{name}index.html")
    } else {
        name.to_owned()
    };
    let own = open::open(folders.own, &wanted, encodings);
    if !matches!(own, Found::Nothing) {
        return own;
    }
    if names::says_its_content(name) {
        let other = folders.other.map(|other| open::open(other, name, encodings));
        return other.unwrap_or(Found::Nothing);
    }
    // A page of a single-page application: its own script reads the path.
    if names::is_page(name) && Style::wanted(headers) == Style::Html {
        return open::open(folders.own, "index.html", encodings);
    }
    Found::Nothing
}

fn redirect(path: &str, query: Option<&str>, flight: Flight) -> Response<Answer> {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = empty(StatusCode::PERMANENT_REDIRECT, flight);
    if let Ok(location) = HeaderValue::try_from(format!("{path}/{query}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn empty(status: StatusCode, mut flight: Flight) -> Response<Answer> {
    flight.answered(status.as_u16());
    let mut response = Response::new(Answer::bytes("", Some(flight)));
    *response.status_mut() = status;
    response
}

fn respond<B>(mut opened: Opened, request: &Request<B>, mut flight: Flight) -> Response<Answer> {
    let kind = names::content_type(&opened.name);
    let takes = names::encodings(request.headers().get(ACCEPT_ENCODING)).gzip;
    // A part of a file is a part of what lies on the disk.
    let whole = !request.headers().contains_key(RANGE);
    if opened.encoding.is_none() && takes && whole && compress::is_worth(kind, opened.length) {
        opened.encoding = Some("gzip");
        return compressed(opened, kind, request, flight);
    }
    let release = &flight.service().key.release;
    let validators = Validators::new(release.as_str(), &opened);
    if validators.unchanged(request.headers()) {
        let mut response = empty(StatusCode::NOT_MODIFIED, flight);
        describe(response.headers_mut(), &opened, &validators);
        return response;
    }
    let length = opened.length;
    let (status, from, until) = match validators.span(request.headers(), length) {
        Span::Whole => (StatusCode::OK, 0, length),
        Span::Part(from, until) => (StatusCode::PARTIAL_CONTENT, from, until),
        Span::Unsatisfiable => {
            let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE, flight);
            insert(response.headers_mut(), CONTENT_RANGE, format!("bytes */{length}"));
            return response;
        }
    };
    flight.answered(status.as_u16());
    let mut headers = HeaderMap::new();
    describe(&mut headers, &opened, &validators);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    insert(&mut headers, CONTENT_LENGTH, (until - from).to_string());
    if let Some(encoding) = opened.encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    if status == StatusCode::PARTIAL_CONTENT {
        insert(&mut headers, CONTENT_RANGE, format!("bytes {from}-{}/{length}", until - 1));
    }
    // To a HEAD nothing is sent: its answer is whole as it is.
    let answer = match *request.method() {
        Method::HEAD => Answer::bytes("", Some(flight)),
        _ => Answer::file(FileBody::new(opened.file, from, until), flight),
    };
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The whole of a file, compressed on its way.
fn compressed<B>(
    opened: Opened,
    kind: &'static str,
    request: &Request<B>,
    mut flight: Flight,
) -> Response<Answer> {
    let validators = Validators::new(flight.service().key.release.as_str(), &opened);
    let mut headers = HeaderMap::new();
    describe(&mut headers, &opened, &validators);
    headers.remove(ACCEPT_RANGES);
    let mut response = if validators.unchanged(request.headers()) {
        empty(StatusCode::NOT_MODIFIED, flight)
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        flight.answered(StatusCode::OK.as_u16());
        let known = compress::known(&opened);
        if let Some(known) = &known {
            insert(&mut headers, CONTENT_LENGTH, known.len().to_string());
        }
        Response::new(match (known, request.method()) {
            (_, &Method::HEAD) => Answer::bytes("", Some(flight)),
            (Some(known), _) => Answer::bytes(known, Some(flight)),
            (None, _) => Answer::gzipped(Gzipped::new(opened), flight),
        })
    };
    response.headers_mut().extend(headers);
    response
}

/// What says how a file may be kept, also when its content is not sent.
fn describe(headers: &mut HeaderMap, opened: &Opened, validators: &Validators) {
    let keep = if names::says_its_content(&opened.name) {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    insert(headers, ETAG, validators.etag.clone());
    if let Some(modified) = &validators.modified {
        insert(headers, LAST_MODIFIED, modified.clone());
    }
}

fn insert(headers: &mut HeaderMap, name: http::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
