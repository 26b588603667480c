//! The body of a request that came over HTTP/2, as hyper takes it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::link::{Gone, Link, Piece};

/// Read as it is taken: what is not read the client may not send.
pub struct Body {
    link: Rc<Link>,
    stream: u32,
    length: Option<u64>,
    ended: bool,
}

impl Body {
    /// `ended`: there is none. `length` is what it will be, if that is known.
    pub fn new(link: Rc<Link>, stream: u32, length: Option<u64>, ended: bool) -> Self {
        Self { link, stream, length, ended }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        this.link.poll_piece(this.stream, cx).map(|piece| {
            this.ended = !matches!(piece, Some(Ok(Piece::Data(_))));
            Some(match piece? {
                Ok(Piece::Data(data)) => {
                    this.length = this.length.map(|left| left.saturating_sub(data.len() as u64));
                    Ok(Frame::data(data))
                }
                Ok(Piece::Trailers(trailers)) => Ok(Frame::trailers(trailers)),
                Err(Gone) => {
                    Err(io::Error::new(io::ErrorKind::ConnectionReset, "the client took it back"))
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.link.is_read(self.stream)
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.ended => SizeHint::with_exact(0),
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.ended {
            self.link.leave_unread(self.stream);
        }
    }
}
