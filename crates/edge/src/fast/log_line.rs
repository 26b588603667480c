//! What the access log tells of a request on the fast path.

use std::sync::Arc;

use crate::access_log::{AccessLog, Line as LogLine, Parts};
use crate::headers::{Claims, Client, Rule};
use crate::strict::Head;

/// How a trace context stands in a head that was written, and its length.
const TRACE: &[u8] = b"\r\ntraceparent: ";
const TRACE_LENGTH: usize = 55;

/// `head` is that of a request, in `bytes`; `out` is what its replica gets, with its request `id`.
pub fn log_line(
    log: Arc<AccessLog>,
    protocol: &'static str,
    head: &Head,
    bytes: &[u8],
    client: &Client,
    out: &[u8],
    id: &[u8],
) -> LogLine {
    let (mut claims, mut user_agent) = (Claims::default(), &b""[..]);
    for line in head.lines() {
        let (name, value) = (line.name(bytes), line.value(bytes));
        if name.eq_ignore_ascii_case(b"user-agent") {
            user_agent = value;
        }
        if let Rule::Claim(claim) = Rule::of(name) {
            claims.add(claim, value);
        }
    }
    let address = client.address(&claims).to_string();
    let trace = out.windows(TRACE.len()).rposition(|window| window == TRACE);
    let trace = trace.map_or(&b""[..], |at| &out[at + TRACE.len()..]);
    let parts = Parts {
        request_id: id,
        traceparent: &trace[..trace.len().min(TRACE_LENGTH)],
        client: address.as_bytes(),
        method: head.method.of(bytes),
        host: head.host.of(bytes),
        path: head.target.of(bytes),
        user_agent,
    };
    LogLine::new(log, protocol, parts)
}
