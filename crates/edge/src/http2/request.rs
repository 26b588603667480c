//! A request of HTTP/2 in the form that is common to both protocols.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::head::Asked;
use crate::body::ClientBody;
use crate::lines::Lines;
use crate::strict::{Framing, REFUSED, Refusal, parse};

/// The request, or what stands for a refused one.
pub fn request(asked: &Asked, body: ClientBody) -> Request<ClientBody> {
    let mut request = Request::new(body);
    *request.version_mut() = Version::HTTP_2;
    if let Err(refusal) = fill(asked, &mut request) {
        request.headers_mut().clear();
        *request.method_mut() = Method::from_bytes(REFUSED.as_bytes()).unwrap_or(Method::TRACE);
        *request.uri_mut() = format!("/{}", refusal.status()).parse().unwrap_or_default();
    }
    request
}

fn fill(asked: &Asked, request: &mut Request<ClientBody>) -> Result<(), Refusal> {
    if let Some(refusal) = asked.refused {
        return Err(refusal);
    }
    let odd = Refusal::Malformed;
    let text = &asked.text[..];
    let mut lines = Lines::new();
    let head = parse(text, &mut lines)?.ok_or(odd)?;
    // The whole address is said apart from the path (RFC 9113, 8.3.1).
    let is_path = head.origin_form || head.target.of(text) == b"*";
    if !is_path {
        return Err(odd);
    }
    if asked.ended && head.framing != Framing::Length(0) {
        return Err(odd);
    }
    *request.method_mut() = Method::from_bytes(head.method.of(text)).map_err(|_| odd)?;
    let target = PathAndQuery::try_from(head.target.of(text)).map_err(|_| odd)?;
    *request.uri_mut() = Uri::from(target);
    for line in head.lines() {
        let (name, value) = (line.name(text), line.value(text));
        // It was only said for us.
        if name == b"transfer-encoding" {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| odd)?;
        request.headers_mut().append(name, HeaderValue::from_bytes(value).map_err(|_| odd)?);
    }
    Ok(())
}
