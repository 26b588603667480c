//! The routing table: the whole of what the edge needs to know, in one value with one epoch.

mod facts;
mod reason;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::slot::Endpoint;
use crate::units::Size;
use crate::{AppName, Color, EnvironmentName, Epoch, ReleaseId, ServiceName};

pub use facts::{
    EdgeStatus, Facts, FactsKey, Finishing, LogStatus, PauseStatus, RouteFacts, TurnedAway,
};
pub use reason::{Reason, Verb};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_whole_segments_only() {
        assert!(covers("/api", "/api") && covers("/api", "/api/teas") && covers("/", "/x"));
        assert!(!covers("/api", "/apix"));
    }
}
