//! The routing table: the whole of what the edge needs to know, in one value with one epoch.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::slot::Endpoint;
use crate::units::Size;
use crate::{AppName, Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

/// Everything the edge routes, at one epoch. A table with a lower epoch than the edge's own is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Table {
    pub epoch: Epoch,
    pub environments: BTreeMap<EnvironmentName, EnvironmentRoutes>,
}

/// One environment's hosts, slots and routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRoutes {
    pub app: AppName,
    /// Answers with the live slot.
    pub host: String,
    /// Further names that answer the same.
    #[serde(default)]
    pub names: Vec<String>,
    /// Answers with the slot that is not live, for checks before the switch.
    pub preview_host: String,
    pub live: Color,
    pub slots: BTreeMap<Color, SlotRoutes>,
    /// How long WebSockets and streams may stay on a slot that lost the traffic.
    pub drain_deadline: Duration,
    /// Over how much time they are closed after that, so that not every client comes back at once.
    #[serde(default = "close_spread")]
    pub close_spread: Duration,
    /// Plain HTTP is redirected to HTTPS. The certificates themselves are given apart from the table.
    #[serde(default)]
    pub https: bool,
}

/// The routes into one slot. The longest matching prefix wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRoutes {
    pub release: ReleaseId,
    pub routes: Vec<Route>,
}

/// A path prefix and the replicas behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Begins with `/`; matches whole path segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    pub prefix: String,
    pub service: ServiceName,
    pub endpoints: Vec<Endpoint>,
    /// Asked by the edge's active health checks; `None` asks for a TCP connection.
    pub health: Option<String>,
    /// The largest request body that is let through; `None` is no limit.
    #[serde(default)]
    pub max_body: Option<Size>,
}

/// Over how much time long-lived connections are closed where nobody said otherwise.
pub const fn close_spread() -> Duration {
    Duration::from_secs(5)
}

/// Whether `prefix` covers `path`, by whole segments.
pub fn covers(prefix: &str, path: &str) -> bool {
    if prefix == "/" {
        return path.starts_with('/');
    }
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl SlotRoutes {
    /// The route that answers `path`: the longest prefix that covers it.
    pub fn matching(&self, path: &str) -> Option<&Route> {
        self.routes
            .iter()
            .filter(|route| covers(&route.prefix, path))
            .max_by_key(|route| route.prefix.len())
    }
}

/// What the edge saw of one service in one slot since it first routed to it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Requests answered, by class of status: `[1xx, 2xx, 3xx, 4xx, 5xx]`.
    pub classes: [u64; 5],
    /// Answers the edge had to make itself because no replica could: part of `classes` too.
    pub unreachable: u64,
    /// Requests being answered now.
    pub in_flight: u64,
    /// Upgraded connections (WebSocket) open now.
    pub upgraded: u64,
    /// Time from the request's head to the end of the answer, in microseconds:
    /// pairs of a bucket's upper bound and its count, rising.
    pub latency: Vec<(u64, u64)>,
    /// When the last request was routed here, milliseconds since the Unix epoch; 0 if never.
    pub last_request_ms: i64,
}

impl Facts {
    /// Requests answered.
    pub fn total(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// The smallest bucket bound that `quantile` (0 to 1) of the answers stayed under; `None` without answers.
    pub fn latency_at(&self, quantile: f64) -> Option<Duration> {
        let total: u64 = self.latency.iter().map(|(_, count)| count).sum();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * quantile).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        self.latency.iter().find_map(|(bound, count)| {
            seen += count;
            (seen >= rank).then(|| Duration::from_micros(*bound))
        })
    }

    /// What was seen since `earlier`, a value of the same service and slot.
    pub fn since(&self, earlier: &Facts) -> Facts {
        let before: BTreeMap<u64, u64> = earlier.latency.iter().copied().collect();
        let latency = self.latency.iter().filter_map(|(bound, count)| {
            let more = count.saturating_sub(before.get(bound).copied().unwrap_or(0));
            (more > 0).then_some((*bound, more))
        });
        Facts {
            classes: std::array::from_fn(|i| self.classes[i].saturating_sub(earlier.classes[i])),
            unreachable: self.unreachable.saturating_sub(earlier.unreachable),
            latency: latency.collect(),
            ..self.clone()
        }
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

/// What the edge answers on its control socket to `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeStatus {
    pub pid: u32,
    pub epoch: Epoch,
    /// The address that carries traffic.
    pub listen: std::net::SocketAddr,
    pub facts: Vec<(FactsKey, Facts)>,
    /// Replicas that the active health check or passive ejection keeps out, with the reason.
    pub ejected: Vec<(FactsKey, Endpoint, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        assert!(covers("/api", "/api") && covers("/api", "/api/teas") && covers("/", "/x"));
        assert!(!covers("/api", "/apix"));
    }

    #[test]
    fn facts_since_an_earlier_reading_count_only_what_came_after() {
        let earlier =
            Facts { classes: [0, 5, 0, 0, 1], latency: vec![(100, 6)], ..Facts::default() };
        let later = Facts {
            classes: [0, 9, 0, 0, 1],
            latency: vec![(100, 6), (200, 4)],
            ..Facts::default()
        };
        let since = later.since(&earlier);
        assert_eq!(since.total(), 4);
        assert_eq!(since.latency_at(0.5), Some(Duration::from_micros(200)));
    }
}
