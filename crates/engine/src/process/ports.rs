//! Ports for replicas: outside the range that the kernel gives to outgoing connections, and reserved
//! between all engines of the machine.
//!
//! The reservation is an abstract socket (unix(7)): it lives in the network namespace, as the port itself
//! does, and ends with its last holder, so that it cannot go stale. The shim inherits it as its standard
//! input and holds it for its whole life.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use rand::RngExt;

const LOWEST: u16 = 10_000;

/// A port that nobody else on this machine is given.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) port: u16,
    holder: OwnedFd,
}

/// A free port that no outgoing connection will take, for a server that is to keep it over restarts.
pub fn lasting_port() -> io::Result<u16> {
    Reservation::make(None).map(|reservation| reservation.port)
}

impl Reservation {
    /// `preferred` if it is free, else any.
    pub(crate) fn make(preferred: Option<u16>) -> io::Result<Self> {
        if let Some(kept) = preferred.and_then(Self::of) {
            return Ok(kept);
        }
        let candidates = candidates(ephemeral_range());
        let first = rand::rng().random_range(0..candidates.len());
        let mut order = candidates[first..].iter().chain(&candidates[..first]);
        order.find_map(|port| Self::of(*port)).ok_or_else(|| {
            io::Error::other("no port is free between 10000 and 65535; stop what uses them")
        })
    }

    fn of(port: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("launchway-port-{port}")).ok()?;
        let holder = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
        Some(Self { port, holder: holder.into() })
    }

    /// What the shim holds on to.
    pub(super) fn into_holder(self) -> OwnedFd {
        self.holder
    }
}

/// Whether somebody accepts connections on the port. Does not disturb who wants to bind it.
pub(super) fn answers(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port).into();
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

fn ephemeral_range() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(32_768), numbers.next().unwrap_or(60_999))
}

/// All ports outside the range; if the range covers everything, all there are.
fn candidates((low, high): (u16, u16)) -> Vec<u16> {
    let outside: BTreeSet<u16> = (LOWEST..=u16::MAX).filter(|p| *p < low || *p > high).collect();
    if outside.len() < 500 {
        return (LOWEST..=u16::MAX).collect();
    }
    outside.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_given_to_nobody_else_and_comes_back() {
        let first = Reservation::make(None).unwrap();
        let second = Reservation::make(Some(first.port)).unwrap();
        assert_ne!(first.port, second.port);
        let port = first.port;
        drop(first);
        assert_eq!(Reservation::make(Some(port)).unwrap().port, port);
    }

    #[test]
    fn a_port_that_a_stranger_listens_on_is_not_given() {
        let taken = Reservation::make(None).unwrap().port;
        let _stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        assert_ne!(Reservation::make(Some(taken)).unwrap().port, taken);
        assert!(answers(taken));
    }

    #[test]
    fn ports_for_outgoing_connections_are_left_alone() {
        assert!(candidates((32_768, 60_999)).iter().all(|p| *p < 32_768 || *p > 60_999));
        assert!(!candidates((1_024, 65_535)).is_empty());
    }
}
