//! What becomes of each header field: those that end at each hop, and those that the edge writes.
//!
//! [`Rule::of`] is the one description. Both ways through the edge follow it: hyper's header maps here, the
//! fast path on raw bytes.

use http::header::{CONNECTION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TE, UPGRADE};

pub use crate::forwarded::{Claim, Claims, Client, Trusted};
use crate::ids::Ids;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What becomes of a field of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Goes on as it is.
    Keep,
    /// Ends here, whoever sent it.
    Drop,
    /// Ends here, and so does every field that it names and that [`may_be_named`].
    Connection,
    /// Goes on if it says `trailers` and nothing else.
    Te,
    /// Written anew, from what a trusted proxy said and what we see.
    Claim(Claim),
    /// Something that only a proxy can know: goes on from a trusted one, else it ends here.
    Hearsay,
    /// From a trusted proxy and sane it goes on, else it is written anew.
    RequestId,
    Trace,
    /// Goes on with the trace that it belongs to.
    TraceState,
}

/// Names that frameworks and servers behind a proxy believe, besides the ones that begin with `x-forwarded-`.
const HEARSAY: [&[u8]; 9] = [
    b"x-real-ip",
    b"x-client-ip",
    b"true-client-ip",
    b"x-cluster-client-ip",
    b"cf-connecting-ip",
    b"x-original-url",
    b"x-original-host",
    b"x-rewrite-url",
    b"front-end-https",
];

impl Rule {
    /// The rule for a field of this name, in any spelling.
    pub fn of(name: &[u8]) -> Self {
        // Most fields begin with another letter than those that have a rule.
        let first = name.first().map(u8::to_ascii_lowercase);
        if !matches!(first, Some(b'c' | b'e' | b'f' | b'k' | b'p' | b't' | b'u' | b'x')) {
            return Self::Keep;
        }
        let rule = Self::of_spelled(name);
        // Servers that speak CGI or WSGI take `X_Forwarded_For` for the field that we wrote.
        if rule != Self::Keep || !name.contains(&b'_') {
            return rule;
        }
        let mut hyphens = [0; 32];
        let Some(hyphens) = hyphens.get_mut(..name.len()) else { return rule };
        for (to, from) in hyphens.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        let framing = is(hyphens, b"content-length") || is(hyphens, b"transfer-encoding");
        if framing || Self::of_spelled(hyphens) != Self::Keep { Self::Drop } else { Self::Keep }
    }

    fn of_spelled(name: &[u8]) -> Self {
        match name.len() {
            2 if is(name, b"te") => Self::Te,
            6 if is(name, b"expect") => Self::Drop,
            7 if is(name, b"upgrade") => Self::Drop,
            9 if is(name, b"forwarded") => Self::Claim(Claim::Forwarded),
            10 if is(name, b"connection") => Self::Connection,
            10 if is(name, b"keep-alive") => Self::Drop,
            10 if is(name, b"tracestate") => Self::TraceState,
            11 if is(name, b"traceparent") => Self::Trace,
            12 if is(name, b"x-request-id") => Self::RequestId,
            15 if is(name, b"x-forwarded-for") => Self::Claim(Claim::Address),
            16 if is(name, b"x-forwarded-host") => Self::Claim(Claim::Host),
            16 if is(name, b"proxy-connection") => Self::Drop,
            17 if is(name, b"x-forwarded-proto") => Self::Claim(Claim::Proto),
            17 if is(name, b"transfer-encoding") => Self::Drop,
            // CGI would make it HTTP_PROXY, which clients of other services obey.
            5 if is(name, b"proxy") => Self::Drop,
            12.. if is(&name[..12], b"x-forwarded-") => Self::Hearsay,
            _ if HEARSAY.iter().any(|known| is(name, known)) => Self::Hearsay,
            _ => Self::Keep,
        }
    }
}

fn is(name: &[u8], known: &[u8]) -> bool {
    name.eq_ignore_ascii_case(known)
}

/// Whether a field of an answer ends here.
pub fn ends_in_answer(name: &[u8]) -> bool {
    let known: [&[u8]; 6] = [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"te",
    ];
    known.into_iter().any(|known| is(name, known))
}

/// Whether `Connection` may take the field of this name away. What we wrote, and what decides where the
/// request goes and how long it is, no client can remove.
pub fn may_be_named(name: &[u8]) -> bool {
    let needed: [&[u8]; 3] = [b"host", b"content-length", b"trailer"];
    Rule::of(name) == Rule::Keep && !needed.into_iter().any(|needed| is(name, needed))
}

/// Whether a request id can go into a log and a page as it is.
pub fn is_sane_id(id: &[u8]) -> bool {
    let sane = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
    (1..=128).contains(&id.len()) && id.iter().all(sane)
}

/// Whether content of a request with this method means something. A server that does not read what means nothing takes it
/// for the next request on its connection (RFC 9110, 9.3.1): that must be nobody else's.
pub fn has_content(method: &[u8]) -> bool {
    !matches!(method, b"GET" | b"HEAD" | b"DELETE")
}

/// Whether the client asks to leave HTTP with this request.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"))
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes the fields that `Connection` names.
fn strip_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers)
        .filter(|token| may_be_named(token.as_bytes()))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// What proxies in front of us say about the client.
pub fn claims(headers: &HeaderMap) -> Claims<'_> {
    let mut claims = Claims::default();
    for (name, claim) in [
        (FORWARDED_FOR, Claim::Address),
        (FORWARDED, Claim::Forwarded),
        (FORWARDED_PROTO, Claim::Proto),
        (FORWARDED_HOST, Claim::Host),
    ] {
        for value in headers.get_all(name) {
            claims.add(claim, value.as_bytes());
        }
    }
    claims
}

/// Writes a request's fields as its replica should get them.
pub fn outgoing(headers: &mut HeaderMap, client: &Client, upgrade: bool) {
    let protocol = upgrade.then(|| headers.get(UPGRADE).cloned()).flatten();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let written = client.written(&claims(headers), host);
    let trailers = headers.get(TE).is_some_and(|te| is(te.as_bytes(), b"trailers"));
    strip_named(headers);
    let ending: Vec<HeaderName> = headers
        .keys()
        .filter(|name| match Rule::of(name.as_str().as_bytes()) {
            Rule::Keep | Rule::RequestId | Rule::Trace | Rule::TraceState => false,
            Rule::Hearsay => !client.is_trusted(),
            Rule::Te => !trailers,
            Rule::Drop | Rule::Connection | Rule::Claim(_) => true,
        })
        .cloned()
        .collect();
    for name in ending {
        headers.remove(name);
    }
    if trailers {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let values = [
        (FORWARDED_FOR, HeaderValue::try_from(written.address)),
        (FORWARDED, HeaderValue::try_from(written.forwarded)),
        (FORWARDED_HOST, HeaderValue::try_from(written.host)),
        (FORWARDED_PROTO, HeaderValue::try_from(written.proto)),
    ];
    for (name, value) in values {
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    }
}

/// Writes an answer's fields as the client should get them.
pub fn incoming(headers: &mut HeaderMap, upgraded: bool) {
    let protocol = upgraded.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip_named(headers);
    let ending = headers.keys().filter(|name| ends_in_answer(name.as_str().as_bytes()));
    for name in ending.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Makes sure that the request has an id and a trace; the id. A trace that began elsewhere goes on (W3C Trace
/// Context, 3.2). An id is kept only if a trusted proxy gave it: anybody else could make two requests look like
/// one in every log.
pub fn identify(headers: &mut HeaderMap, client: &Client, ids: &Ids) -> HeaderValue {
    let given =
        headers.get(REQUEST_ID).filter(|id| client.is_trusted() && is_sane_id(id.as_bytes()));
    let id = given.cloned().unwrap_or_else(|| ids.request_id());
    headers.insert(REQUEST_ID, id.clone());
    let trace = headers.get(TRACEPARENT);
    if !trace.is_some_and(|trace| is_trace(trace.as_bytes())) {
        headers.insert(TRACEPARENT, ids.traceparent());
        headers.remove(TRACESTATE);
    }
    id
}

/// Whether this is a trace context: `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zero (W3C Trace Context).
pub fn is_trace(trace: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let parts: Vec<&[u8]> = trace.split(|b| *b == b'-').take(5).collect();
    let [version, id, parent, flags, ref more @ ..] = parts[..] else { return false };
    let lengths = version.len() == 2 && id.len() == 32 && parent.len() == 16 && flags.len() == 2;
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    lengths
        && version != b"ff"
        // Only a later version may say more.
        && (more.is_empty() || version != b"00")
        && [version, id, parent, flags].into_iter().all(hex)
        && !zero(id)
        && !zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    fn stranger() -> Client {
        Client::new("::1".parse().unwrap(), false, &Trusted::default())
    }

    fn proxy() -> Client {
        Client::new("::1".parse().unwrap(), false, &Trusted::new(&["::1/128".parse().unwrap()]))
    }

    #[test]
    fn fields_of_one_hop_are_removed_and_claims_replaced() {
        let fields = [
            ("host", "tea:80"),
            ("connection", "keep-alive, X-Secret, Host, X-Forwarded-For, Cookie"),
            ("x-secret", "1"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("content_length", "6"),
            ("x-forwarded-port", "6"),
            ("x-real-ip", "6.6.6.6"),
            ("keep-alive", "5"),
            ("my_own", "7"),
            ("te", "gzip"),
        ];
        let mut headers = map(&fields);
        outgoing(&mut headers, &stranger(), false);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        let expected = "forwarded host my_own x-forwarded-for x-forwarded-host x-forwarded-proto";
        assert_eq!(left.join(" "), expected);
        assert_eq!(headers["x-forwarded-for"], "::1");
        assert_eq!(headers["forwarded"], "for=\"[::1]\";host=\"tea:80\";proto=http");
        assert_eq!(headers["host"], "tea:80");
        let mut believed = map(&fields);
        outgoing(&mut believed, &proxy(), false);
        assert_eq!(believed["x-forwarded-for"], "6.6.6.6, ::1");
        assert_eq!(
            (&believed["x-forwarded-port"], &believed["x-real-ip"]),
            (&"6".parse().unwrap(), &"6.6.6.6".parse().unwrap())
        );
        assert!(!believed.contains_key("x_forwarded_for"));
    }

    #[test]
    fn every_name_with_a_rule_has_it_in_any_spelling() {
        let others = "te expect upgrade forwarded connection keep-alive tracestate traceparent \
                      x-request-id x-forwarded-for x-forwarded-any proxy-connection transfer-encoding proxy";
        let others = others.split_whitespace().map(str::as_bytes);
        for name in HEARSAY.into_iter().chain(others) {
            let upper = name.to_ascii_uppercase();
            assert!(Rule::of(name) != Rule::Keep && Rule::of(&upper) == Rule::of(name));
        }
    }

    #[test]
    fn a_trace_goes_on_whoever_sends_it_and_an_id_only_from_a_trusted_proxy() {
        let ids = Ids::new(0);
        let given = [("x-request-id", "abc-1"), ("traceparent", TRACE), ("tracestate", "a=b")];
        for client in [proxy(), stranger()] {
            let mut headers = map(&given);
            let id = identify(&mut headers, &client, &ids);
            assert_eq!(id == "abc-1", client.is_trusted());
            assert_eq!(headers["traceparent"], TRACE);
            assert_eq!(headers["tracestate"], "a=b");
        }
    }

    #[test]
    fn an_odd_id_or_trace_is_replaced() {
        let mut odd = map(&[
            ("x-request-id", "a b<script>"),
            ("traceparent", "00-00-00-00"),
            ("tracestate", "a=b"),
        ]);
        assert_eq!(identify(&mut odd, &proxy(), &Ids::new(0)).len(), 32);
        assert!(is_trace(odd["traceparent"].as_bytes()) && !odd.contains_key("tracestate"));
    }
}
