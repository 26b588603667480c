//! A listening socket that accepts for little.
//!
//! tokio's own accepts until the kernel says that nobody waits. That takes the kernel 3.6 µs, for it makes the
//! descriptor first; to be asked whether somebody waits takes it 0.3 µs. A new connection costs some 70 µs in all.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use nix::sys::socket::{setsockopt, sockopt::TcpNoDelay};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Connections that wait to be accepted, per socket.
pub const BACKLOG: i32 = 1024;

/// Accepts connections, one task at a time.
pub struct Listener {
    socket: AsyncFd<TcpListener>,
    /// Whether what told of the last connection told of this one too: nobody knows.
    doubtful: Cell<bool>,
}

impl Listener {
    /// `socket` does not block. Fails where the runtime cannot watch it.
    #[expect(unsafe_code, reason = "tokio has no safe way to watch what it did not open")]
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        // Without it the end of an answer may wait for an acknowledgement; nothing breaks. Connections inherit it.
        let _ = setsockopt(&socket, TcpNoDelay, &true);
        // SAFETY: a TcpListener owns its one descriptor for as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket, doubtful: Cell::default() })
    }

    /// The next connection, which does not block, and where it comes from. Nothing is lost if this is dropped before
    /// it is ready.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let next = |socket: &TcpListener| {
            if self.doubtful.take() && !waits(socket)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let accepted = accept(socket)?;
            self.doubtful.set(true);
            Ok(accepted)
        };
        self.socket.async_io(Interest::READABLE, next).await
    }

    /// The same of a connection that waits now. Fails with `WouldBlock` where there is none.
    pub fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        accept(self.socket.get_ref())
    }
}

/// Whether somebody waits to be accepted.
fn waits(socket: &TcpListener) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut asked = [PollFd::new(socket, PollFlags::IN)];
    match poll(&mut asked, Some(&now)) {
        Err(rustix::io::Errno::INTR) => Ok(true),
        found => Ok(found? > 0),
    }
}

fn accept(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (stream, address) = acceptfrom_with(socket, flags)?;
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    let address = address.ok_or_else(|| io::Error::other("a client without an address"))?;
    Ok((stream.into(), address))
}
