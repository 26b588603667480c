//! A TCP stream that its owner and hyper share: hyper reads and writes, the owner can look and linger.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

thread_local! {
    /// Read into in the place of memory that nobody has written to: only what came is copied, where zeros would
    /// have to be written to all of it first.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]);
}

/// One reader and one writer at a time.
#[derive(Clone)]
pub struct Stream {
    tcp: Arc<TcpStream>,
    /// Just accepted: the runtime knows nothing of it yet, but what the client has to say is often there.
    fresh: Cell<bool>,
}

impl Stream {
    /// Of a client that was just accepted.
    pub fn accepted(tcp: TcpStream) -> Self {
        Self { tcp: Arc::new(tcp), fresh: Cell::new(true) }
    }

    /// Of a replica.
    pub fn connected(tcp: Arc<TcpStream>) -> Self {
        Self { tcp, fresh: Cell::new(false) }
    }

    /// Reads what is there into `into`; 0 is the end of the stream.
    pub fn poll_fill(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.fresh.take() {
            match recv(self.tcp.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                outcome => return Poll::Ready(Ok(outcome?)),
            }
        }
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            let mut short = None;
            let read = self.tcp.try_io(Interest::READABLE, || {
                let n = recv(self.tcp.as_raw_fd(), into, MsgFlags::empty())?;
                if n == 0 || n == into.len() {
                    return Ok(n);
                }
                // All there was: the next one who looks waits, instead of asking the kernel again. The end
                // of the stream is remembered apart from that.
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            });
            match (short, read) {
                (Some(n), _) => return Poll::Ready(Ok(n)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, outcome) => return Poll::Ready(outcome),
            }
        }
    }

    fn poll_put(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp.poll_write_ready(cx))?;
            match write(&self.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_put(cx, |stream| stream.try_write(bytes))
    }

    pub fn poll_send_all(
        &self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, |stream| stream.try_write_vectored(bytes))
    }

    /// Sends in one try, ready or not: to whom nobody waits for.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        Ok(send(self.tcp.as_raw_fd(), bytes, flags)?)
    }

    /// Sends the end of the stream.
    pub fn close_write(&self) -> io::Result<()> {
        match shutdown(self.tcp.as_raw_fd(), Shutdown::Write) {
            Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether an idle connection still stands: nothing to read, and not closed by the other side.
pub fn quiet(stream: &TcpStream) -> bool {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    recv(stream.as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.initialized().len() > buf.filled().len() {
            let n = ready!(self.poll_fill(cx, buf.initialize_unfilled()))?;
            buf.advance(n);
            return Poll::Ready(Ok(()));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let most = scratch.len().min(buf.remaining());
            let n = ready!(self.poll_fill(cx, &mut scratch[..most]))?;
            buf.put_slice(&scratch[..n]);
            Poll::Ready(Ok(()))
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send_all(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.close_write())
    }
}
