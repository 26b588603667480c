//! What is asked of each proxy, and which combinations are left out.

use serde::Serialize;

/// One way of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Scenario {
    pub protocol: Protocol,
    pub size: Body,
    pub connection: Connection,
    /// Connections that are open at the same time.
    pub clients: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Http1,
    TlsHttp1,
    TlsHttp2,
}

/// The size of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Body {
    #[serde(rename = "1 KiB")]
    Small,
    #[serde(rename = "20 KiB")]
    Large,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    KeepAlive,
    /// A new connection, and with TLS a full handshake, for each request.
    New,
}

/// Combinations that are not measured, and why.
pub const LEFT_OUT: [&str; 3] = [
    "TLS+HTTP/2, new connections, 20 KiB: the handshake is nearly all of the cost, which 1 KiB shows",
    "TLS+HTTP/1.1 with one client, and new connections with 20 KiB: as TLS+HTTP/2 and HTTP/1.1 have it",
    "HTTP/2 without TLS: browsers do not speak it",
];

use Body::{Large, Small};
use Connection::{KeepAlive, New};
use Protocol::{Http1, TlsHttp1, TlsHttp2};

const MANY: usize = 1000;

impl Scenario {
    const fn new(protocol: Protocol, size: Body, connection: Connection, clients: usize) -> Self {
        Self { protocol, size, connection, clients }
    }

    /// All that a full run measures.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for connection in [KeepAlive, New] {
            for clients in [1, MANY] {
                all.extend([Small, Large].map(|size| Self::new(Http1, size, connection, clients)));
            }
        }
        for clients in [1, MANY] {
            all.extend([Small, Large].map(|size| Self::new(TlsHttp2, size, KeepAlive, clients)));
            all.push(Self::new(TlsHttp2, Small, New, clients));
        }
        all.extend([Small, Large].map(|size| Self::new(TlsHttp1, size, KeepAlive, MANY)));
        all.push(Self::new(TlsHttp1, Small, New, MANY));
        all
    }

    /// Those of a quick run.
    pub fn few() -> Vec<Self> {
        vec![
            Self::new(Http1, Small, KeepAlive, 1),
            Self::new(Http1, Small, KeepAlive, MANY),
            Self::new(Http1, Large, KeepAlive, MANY),
            Self::new(Http1, Small, New, MANY),
            Self::new(TlsHttp2, Small, KeepAlive, MANY),
            Self::new(TlsHttp2, Large, KeepAlive, MANY),
            Self::new(TlsHttp2, Small, New, MANY),
        ]
    }

    pub fn tls(self) -> bool {
        self.protocol != Http1
    }

    pub fn path(self) -> &'static str {
        match self.size {
            Small => "/1k",
            Large => "/20k",
        }
    }

    /// For a line of a table.
    pub fn name(self) -> String {
        let protocol = match self.protocol {
            Http1 => "HTTP/1.1",
            TlsHttp1 => "TLS+HTTP/1.1",
            TlsHttp2 => "TLS+HTTP/2",
        };
        let size = if self.size == Small { "1 KiB" } else { "20 KiB" };
        let connection =
            if self.connection == KeepAlive { "keep-alive" } else { "new connections" };
        let clients = if self.clients == 1 { "1 client" } else { "1,000 clients" };
        format!("{protocol}, {size}, {connection}, {clients}")
    }
}
