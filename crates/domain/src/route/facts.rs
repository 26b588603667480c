//! What the edge counts, as whoever watches it gets it: totals that only rise, and what is open now.
//!
//! A reader asks once a second and takes the difference to its last reading by [`Facts::since`]. Readings of
//! several routes, workers or edges are put together by [`Facts::merge`]: the order makes no difference.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Reason, Verb};
use crate::sketch::Sketch;
use crate::slot::Endpoint;
use crate::{Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

/// What the edge saw of one service in one slot, or of one of its routes, since it first routed there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Requests answered, by class of status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub classes: [u64; 5],
    /// Requests answered, by method.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub methods: BTreeMap<Verb, u64>,
    /// Requests that the edge answered itself, whose answer did not reach its end, or that had to wait, by why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<Reason, u64>,
    /// Bytes of request bodies, and of what came through upgraded connections from clients.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes of answers' bodies, and of what went through upgraded connections to clients.
    #[serde(default)]
    pub bytes_out: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Upgraded connections (WebSocket) open now.
    pub upgraded: u64,
    /// Those of the requests being answered now that are event streams.
    #[serde(default)]
    pub streams: u64,
    /// From the request's head to the end of the answer. A stream and an upgrade end here with their head.
    pub latency: Sketch,
    /// From the request's head to the head of the answer.
    #[serde(default)]
    pub first_byte: Sketch,
    /// Opening connections to replicas, where one had to be opened.
    #[serde(default)]
    pub connect: Sketch,
    /// When the last request was routed here, milliseconds since the Unix epoch; 0 if never.
    pub last_request_ms: i64,
}

impl Facts {
    /// Requests answered.
    pub fn total(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Answers the edge had to make itself because no replica could: part of `classes` too.
    pub fn unreachable(&self) -> u64 {
        let of = self.reasons.iter().filter(|(reason, _)| reason.is_unreachable());
        of.map(|(_, count)| count).sum()
    }

    /// Requests that failed because of a replica, by why.
    pub fn failures(&self) -> BTreeMap<Reason, u64> {
        let of = self.reasons.iter().filter(|(reason, _)| reason.is_failure());
        of.map(|(reason, count)| (*reason, *count)).collect()
    }

    /// How many they are.
    pub fn failed(&self) -> u64 {
        self.failures().values().sum()
    }

    /// Requests that were answered only because they waited for a replica to come back.
    pub fn waited(&self) -> u64 {
        self.reasons.get(&Reason::Waited).copied().unwrap_or(0)
    }

    /// The time that a share of `quantile` (0 to 1) of the answers took at most, within 1.6%; `None` without
    /// answers.
    pub fn latency_at(&self, quantile: f64) -> Option<Duration> {
        self.latency.quantile(quantile)
    }

    /// What was seen since `earlier`, a value of the same service and slot. What is open now stays as it is.
    pub fn since(&self, earlier: &Facts) -> Facts {
        Facts {
            classes: std::array::from_fn(|i| self.classes[i].saturating_sub(earlier.classes[i])),
            methods: since(&self.methods, &earlier.methods),
            reasons: since(&self.reasons, &earlier.reasons),
            bytes_in: self.bytes_in.saturating_sub(earlier.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(earlier.bytes_out),
            latency: self.latency.since(&earlier.latency),
            first_byte: self.first_byte.since(&earlier.first_byte),
            connect: self.connect.since(&earlier.connect),
            ..*self
        }
    }

    /// Adds what `other` saw.
    pub fn merge(&mut self, other: &Facts) {
        for (sum, more) in self.classes.iter_mut().zip(other.classes) {
            *sum += more;
        }
        merge(&mut self.methods, &other.methods);
        merge(&mut self.reasons, &other.reasons);
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.in_flight += other.in_flight;
        self.upgraded += other.upgraded;
        self.streams += other.streams;
        self.latency.merge(&other.latency);
        self.first_byte.merge(&other.first_byte);
        self.connect.merge(&other.connect);
        self.last_request_ms = self.last_request_ms.max(other.last_request_ms);
    }
}

fn since<K: Ord + Copy>(now: &BTreeMap<K, u64>, earlier: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let more = |(key, count): (&K, &u64)| {
        let more = count.saturating_sub(earlier.get(key).copied().unwrap_or(0));
        (more > 0).then_some((*key, more))
    };
    now.iter().filter_map(more).collect()
}

fn merge<K: Ord + Copy>(into: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *into.entry(*key).or_default() += count;
    }
}

/// The key of [`Facts`]: which service in which slot of which release.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FactsKey {
    pub environment: EnvironmentName,
    pub slot: Color,
    pub release: ReleaseId,
    pub service: ServiceName,
}

/// The facts of one route, part of those of its service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteFacts {
    #[serde(flatten)]
    pub key: FactsKey,
    pub prefix: String,
    pub facts: Facts,
}

/// Requests that reached no route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnedAway {
    /// Whose host it was; `None` where that is not known.
    pub environment: Option<EnvironmentName>,
    pub reason: Reason,
    /// The status of the answer; 0 stands for one that no such answer usually has.
    pub status: u16,
    pub count: u64,
}

/// The access log's state, where it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogStatus {
    pub written: u64,
    /// Lines left out because whoever reads the log was too slow: traffic never waits for it.
    pub dropped: u64,
}

/// What the edge answers on its control socket to `GET /status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStatus {
    pub pid: u32,
    #[serde(default)]
    pub version: String,
    /// Names the file that the process was started from: another build, or a copy, has another name.
    #[serde(default)]
    pub build: String,
    /// When this process began to carry traffic, milliseconds since the Unix epoch.
    #[serde(default)]
    pub started_ms: i64,
    pub epoch: Epoch,
    /// The address that carries traffic.
    pub listen: SocketAddr,
    /// The address that carries TLS.
    #[serde(default)]
    pub https: Option<SocketAddr>,
    /// Client connections open now.
    #[serde(default)]
    pub connections: u64,
    /// Per service; one that never had a request is left out.
    pub facts: Vec<(FactsKey, Facts)>,
    /// Requests that reached no route.
    #[serde(default)]
    pub turned_away: Vec<TurnedAway>,
    /// Replicas that the active health check or passive ejection keeps out, with the reason.
    pub ejected: Vec<(FactsKey, Endpoint, String)>,
    #[serde(default)]
    pub access_log: Option<LogStatus>,
    /// Environments whose new requests are held back.
    #[serde(default)]
    pub pauses: Vec<PauseStatus>,
    /// Those that it took over from and that still have something; the numbers above count them in.
    #[serde(default)]
    pub finishing: Vec<Finishing>,
}

/// An edge that another one took over from: what it still has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finishing {
    pub pid: u32,
    /// Client connections open now.
    pub connections: u64,
    /// Requests being answered, event streams among them.
    pub in_flight: u64,
    pub upgraded: u64,
    pub streams: u64,
}

impl Finishing {
    /// What the edge that says this of itself still has.
    pub fn of(status: &EdgeStatus) -> Self {
        let sum = |of: fn(&Facts) -> u64| status.facts.iter().map(|(_, facts)| of(facts)).sum();
        Self {
            pid: status.pid,
            connections: status.connections,
            in_flight: sum(|facts| facts.in_flight),
            upgraded: sum(|facts| facts.upgraded),
            streams: sum(|facts| facts.streams),
        }
    }
}

/// A pause in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseStatus {
    pub environment: EnvironmentName,
    /// Requests that wait.
    pub held: u64,
    /// When they go on by themselves, in milliseconds from now.
    pub ends_in_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(answers: u64, micros: u64) -> Facts {
        Facts {
            classes: [0, answers, 0, 0, 1],
            methods: [(Verb::Get, answers + 1)].into(),
            reasons: [(Reason::Connect, 1)].into(),
            bytes_out: answers * 10,
            latency: Sketch::of([(micros, answers + 1)]),
            ..Facts::default()
        }
    }

    #[test]
    fn facts_since_an_earlier_reading_count_only_what_came_after() {
        let earlier = facts(5, 100);
        let mut later = earlier.clone();
        later.merge(&Facts { in_flight: 3, ..facts(4, 200) });
        let since = later.since(&earlier);
        assert_eq!((since.total(), since.unreachable(), since.in_flight), (5, 1, 3));
        assert_eq!((since.methods[&Verb::Get], since.bytes_out), (5, 40));
        let p50 = since.latency_at(0.5).unwrap();
        assert!((197..=203).contains(&p50.as_micros()), "{p50:?}");
        assert_eq!(earlier.since(&earlier).total(), 0);
    }

    #[test]
    fn merging_in_another_order_makes_no_difference() {
        let all = [facts(1, 10), facts(20, 5_000), facts(300, 70)];
        let sum = |order: [usize; 3]| {
            let mut sum = Facts::default();
            order.into_iter().for_each(|i| sum.merge(&all[i]));
            sum
        };
        assert_eq!(sum([0, 1, 2]), sum([2, 0, 1]));
        assert_eq!(sum([0, 1, 2]).total(), 324);
    }
}
