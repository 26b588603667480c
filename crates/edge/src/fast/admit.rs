//! Takes a plain request on: routed, counted, and with its head as its replica gets it.

use std::ops::Range;
use std::rc::Rc;

use domain::route::Verb;

use super::log_line::log_line;
use super::request;
use crate::accept::Arrival;
use crate::elsewhere;
use crate::facts::Flight;
use crate::headers::has_content;
use crate::limits;
use crate::live::{Route, Target, acquire_if, host_name};
use crate::strict::{Framing, Head};
use crate::worker::Worker;

/// A request that a replica will answer.
pub struct Admitted {
    /// As the replica gets it.
    pub head: Vec<u8>,
    /// Where the request's id lies in `head`.
    pub id: Range<usize>,
    pub is_head: bool,
    /// It asks for nothing to be changed, and has no body.
    pub repeatable: bool,
    /// The client wants the connection to end.
    pub close: bool,
}

/// Takes the request on whose `head` is at the start of `bytes`, and counts it; `None` if it is not plain.
pub fn admit(
    worker: &Rc<Worker>,
    arrival: &Arrival,
    head: &Head,
    bytes: &[u8],
    protocol: &'static str,
) -> Option<(Admitted, Flight)> {
    let (method, target) = (head.method.of(bytes), head.target.of(bytes));
    let asks_for_more = head.upgrade || head.expect || method == b"TRACE";
    let bodiless = head.framing == Framing::Length(0);
    if !head.one_one || !head.origin_form || asks_for_more || !(bodiless || has_content(method)) {
        return None;
    }
    let host = host_name(std::str::from_utf8(head.host.of(bytes)).ok()?);
    let path = target.split(|b| *b == b'?').next().unwrap_or_default();
    let path = std::str::from_utf8(path).ok()?;
    let shared = &worker.shared;
    if elsewhere::concerns(shared, arrival, &host, path) {
        return None;
    }
    let fits = |route: &Route| fits(route, head.framing);
    let acquired = acquire_if(&shared.live, worker.index, &host, path, fits);
    let mut flight = acquired.ok()??;
    flight.asked(Verb::of(method));
    let mut out = worker.fast.buffers.head();
    let client = &arrival.client;
    let written = request::write(head, bytes, client, &worker.ids, &mut out);
    if let Some(log) = &shared.access_log {
        let id = &out[written.id.clone()];
        flight.logged(log_line(log.clone(), protocol, head, bytes, client, &out, id));
    }
    let is_head = method == b"HEAD";
    let admitted = Admitted {
        head: out,
        id: written.id,
        is_head,
        repeatable: (is_head || method == b"GET") && bodiless,
        close: written.close,
    };
    Some((admitted, flight))
}

/// Whether the fast path answers requests of this framing to `route`.
fn fits(route: &Route, framing: Framing) -> bool {
    let size = match framing {
        Framing::Length(length) => limits::fits(length, route.max_body),
        Framing::Chunked => true,
        Framing::Tunnel => false,
    };
    size && matches!(route.target, Target::Replicas(_))
}
