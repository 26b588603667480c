//! Header fields that end at each hop, and those that the edge writes.

use std::net::IpAddr;

use http::header::{
    CONNECTION, FORWARDED, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::ids::Ids;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that would say something about the client which only a proxy in front of us could know. Nobody
/// is believed yet.
const CLAIMS: [&str; 4] =
    ["x-real-ip", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-server"];

/// What a client connection adds to each of its requests, made once.
pub struct Client {
    address: HeaderValue,
    forwarded: String,
    /// It came over TLS.
    secure: bool,
}

impl Client {
    pub fn new(address: IpAddr, secure: bool) -> Self {
        let address = address.to_canonical();
        let text = address.to_string();
        let forwarded = if address.is_ipv6() { format!("\"[{text}]\"") } else { text.clone() };
        let address = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
        Self { address, forwarded, secure }
    }

    /// The scheme by which the client reached us.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

/// Whether the client asks to leave HTTP with this request.
pub fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && tokens(headers).any(|t| t.eq_ignore_ascii_case("upgrade"))
}

fn tokens(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Removes what is meant for this hop only. Trailers stay possible.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers)
        .filter(|token| !["keep-alive", "close", "upgrade", "te"].contains(token))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !["host", "content-length", "trailer"].contains(&name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    let trailers =
        headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if !trailers {
        headers.remove(TE);
    }
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// Writes a request's fields as its replica should get them.
pub fn outgoing(headers: &mut HeaderMap, client: &Client, upgrade: bool) {
    let protocol = upgrade.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip(headers);
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    for claim in CLAIMS {
        headers.remove(claim);
    }
    // The edge answers it to the client itself, when the body is wanted.
    headers.remove(http::header::EXPECT);
    if let Some(host) = headers.get(http::header::HOST).cloned() {
        if let Ok(host) = host.to_str() {
            // Quoted: a port or an IPv6 address is no token.
            let (address, scheme) = (&client.forwarded, client.scheme());
            let forwarded = format!("for={address};host=\"{host}\";proto={scheme}");
            if let Ok(value) = HeaderValue::try_from(forwarded) {
                headers.insert(FORWARDED, value);
            }
        }
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_FOR, client.address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme()));
}

/// Writes an answer's fields as the client should get them.
pub fn incoming(headers: &mut HeaderMap, upgraded: bool) {
    let protocol = upgraded.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Makes sure that the request has an id and a trace; the id.
pub fn identify(headers: &mut HeaderMap, ids: &Ids) -> HeaderValue {
    let sane = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(sane));
    let id = given.cloned().unwrap_or_else(|| ids.request_id());
    headers.insert(REQUEST_ID, id.clone());
    if !headers.get(TRACEPARENT).is_some_and(|trace| is_trace(trace.as_bytes())) {
        headers.insert(TRACEPARENT, ids.traceparent());
    }
    id
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, neither id all zero.
fn is_trace(trace: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b));
    let parts: Vec<&[u8]> = trace.split(|b| *b == b'-').take(5).collect();
    let [version, id, parent, flags, ..] = parts[..] else { return false };
    let lengths = version.len() == 2 && id.len() == 32 && parent.len() == 16 && flags.len() == 2;
    let zero = |part: &[u8]| part.iter().all(|b| *b == b'0');
    lengths
        && version != b"ff"
        && [version, id, parent, flags].into_iter().all(hex)
        && !zero(id)
        && !zero(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn fields_of_one_hop_are_removed_and_claims_replaced() {
        let mut headers = map(&[
            ("host", "tea:80"),
            ("connection", "keep-alive, X-Secret, Host"),
            ("x-secret", "1"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("keep-alive", "5"),
            ("te", "gzip"),
        ]);
        outgoing(&mut headers, &Client::new("::1".parse().unwrap(), false), false);
        for name in ["connection", "x-secret", "x-real-ip", "keep-alive", "te"] {
            assert!(!headers.contains_key(name), "{name} was kept");
        }
        assert_eq!(headers["x-forwarded-for"], "::1");
        assert_eq!(headers["forwarded"], "for=\"[::1]\";host=\"tea:80\";proto=http");
        assert_eq!(headers["host"], "tea:80");
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let ids = Ids::new(0);
        let mut kept = map(&[("x-request-id", "abc-1")]);
        assert_eq!(identify(&mut kept, &ids), "abc-1");
        let mut odd = map(&[("x-request-id", "a b<script>"), ("traceparent", "00-00-00-00")]);
        assert_eq!(identify(&mut odd, &ids).len(), 32);
        assert!(is_trace(odd["traceparent"].as_bytes()));
    }
}
