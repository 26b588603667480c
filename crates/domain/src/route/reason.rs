//! Why the edge answered a request itself, or an answer did not reach its end; and the methods it tells apart.
//! Both are of a fixed number, so that no client can make counters grow.

use serde::{Deserialize, Serialize};

macro_rules! fixed {
    ($(#[$doc:meta])* $type:ident { $($(#[$case_doc:meta])* $case:ident $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$case_doc])* #[serde(rename = $name)] $case,)*
        }

        impl $type {
            /// Every case, in order.
            pub const ALL: &[Self] = &[$(Self::$case,)*];
            /// How many cases there are.
            pub const COUNT: usize = Self::ALL.len();

            /// As it is written in JSON and in metrics.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$case => $name,)*
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

fixed! {
    /// A request's method, as far as it is told apart.
    Verb {
        Get "GET",
        Head "HEAD",
        Post "POST",
        Put "PUT",
        Patch "PATCH",
        Delete "DELETE",
        Options "OPTIONS",
        Connect "CONNECT",
        Other "other",
    }
}

fixed! {
    /// Why the edge answered a request itself, why an answer did not reach its end, or what it had to wait for.
    Reason {
        /// No replica is there.
        NoReplica "no_replica",
        /// No replica took a connection.
        Connect "connect",
        /// No replica took a connection at first: it waited until one was back, and went on.
        Waited "waited",
        /// A replica did not begin its answer in time.
        Timeout "timeout",
        /// A replica closed the connection before it answered.
        Closed "closed",
        /// A replica answered something that is no HTTP.
        Garbled "garbled",
        /// A replica broke its answer off.
        BrokenOff "broken_off",
        /// The client left before it had the whole answer.
        ClientLeft "client_left",
        /// The client did not go on sending its request, or reading its answer, in time.
        SlowClient "slow_client",
        /// The body is larger than the route allows.
        BodyTooLarge "body_too_large",
        /// The client wrote a body that is against the rules.
        MalformedBody "malformed_body",
        /// Paused, and as many requests wait as may.
        PauseFull "pause_full",
        /// Paused for longer than a request may wait.
        PauseTimeout "pause_timeout",
        /// A long-lived connection or stream was ended because its slot lost the traffic.
        Drained "drained",
        /// No environment has this host.
        UnknownHost "unknown_host",
        /// The preview host of an environment without a second slot.
        NoPreview "no_preview",
        /// The environment's live slot is not there.
        NotLive "not_live",
        /// No route covers the path.
        NoRoute "no_route",
        /// The head is against the rules.
        Malformed "malformed",
        /// The head, or a part of it, is too large.
        HeadTooLarge "head_too_large",
        /// The head did not come in time.
        SlowHead "slow_head",
        /// A method that the edge does not carry.
        Method "method",
        /// The host is not one of those that the connection's certificate is for.
        Misdirected "misdirected",
        /// Too many connections, of all clients or of one address.
        TooManyConnections "too_many_connections",
        /// Sent on to HTTPS.
        ToHttps "to_https",
        /// An answer for the issuer of certificates.
        Challenge "challenge",
        /// The edge stops.
        Stopping "stopping",
        /// Anything else.
        Other "other",
    }
}

impl Verb {
    /// The method of a request; methods are case-sensitive (RFC 9110, section 9.1).
    pub fn of(method: &[u8]) -> Self {
        match method {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"PATCH" => Self::Patch,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

impl Reason {
    /// The status with which the edge answers for this reason; 499 where the client is not there to read one.
    pub fn status(self) -> u16 {
        match self {
            Self::Closed | Self::Garbled | Self::BrokenOff => 502,
            Self::Timeout => 504,
            Self::ClientLeft => 499,
            Self::SlowClient | Self::SlowHead => 408,
            Self::BodyTooLarge => 413,
            Self::UnknownHost | Self::NoPreview | Self::NoRoute => 404,
            Self::Malformed | Self::MalformedBody => 400,
            Self::HeadTooLarge => 431,
            Self::Method => 405,
            Self::Misdirected => 421,
            Self::ToHttps => 308,
            Self::Challenge | Self::Drained | Self::Waited => 200,
            Self::Other => 500,
            Self::NoReplica
            | Self::Connect
            | Self::PauseFull
            | Self::PauseTimeout
            | Self::NotLive
            | Self::TooManyConnections
            | Self::Stopping => 503,
        }
    }

    /// Whether no replica could give the answer.
    pub fn is_unreachable(self) -> bool {
        matches!(
            self,
            Self::NoReplica | Self::Connect | Self::Timeout | Self::Closed | Self::Garbled
        )
    }

    /// Whether a request failed because of a replica, before its answer or within it.
    pub fn is_failure(self) -> bool {
        self.is_unreachable() || self == Self::BrokenOff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_and_reason_is_written_as_it_is_named() {
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str());
        }
        assert_eq!(Verb::of(b"get"), Verb::Other);
        for (at, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(
                (serde_json::to_value(reason).unwrap(), *reason as usize),
                (reason.as_str().into(), at)
            );
        }
    }
}
