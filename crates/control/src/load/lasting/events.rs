//! One stream of events (text/event-stream): opened, listened to, and how it ended.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::tally::Tally;
use super::{ClientKind, Ear, End, LastingLoad};

const TYPE: &str = "text/event-stream";

/// An answer that goes on, and the connection it comes on.
pub(super) struct Stream {
    body: Incoming,
    _sender: SendRequest<Empty<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) async fn open(load: &LastingLoad) -> Result<Stream, String> {
    let (target, path) = (&load.target, &load.event_path);
    let failed = |error: &dyn std::fmt::Display| format!("opening {}{path}: {error}", target.host);
    let stream = TcpStream::connect(target.connect)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", target.connect))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // Its errors reach the body that suffers from them.
    let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    let request = Request::get(path)
        .header(header::HOST, &target.host)
        .header(header::ACCEPT, TYPE)
        .body(Empty::new())
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await;
    let stream = |body| Stream { body, _sender: sender, driver: driver.clone() };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            driver.abort();
            return Err(failed(&error));
        }
    };
    let is_stream = answer.headers().get(header::CONTENT_TYPE).is_some_and(|value| {
        value.to_str().is_ok_and(|value| value.trim_start().starts_with(TYPE))
    });
    let status = answer.status();
    let stream = stream(answer.into_body());
    if status.is_success() && is_stream {
        return Ok(stream);
    }
    Err(failed(&format!("answered {status}, which is no stream of events")))
}

pub(super) async fn listen(mut stream: Stream, silence: Duration, tally: &Tally) -> End {
    let mut ear = Ear::new(ClientKind::EventStream, silence, tally);
    let mut text = Text::default();
    loop {
        let heard = match ear.hear(stream.body.frame()).await {
            Ok(heard) => heard,
            Err(end) => return end,
        };
        match heard {
            Some(Ok(frame)) => {
                let Some(bytes) = frame.data_ref() else { continue };
                (0..text.read(bytes)).for_each(|_| tally.message(ClientKind::EventStream));
            }
            Some(Err(error)) => return End::Abnormal(format!("1006: {error}")),
            None if text.between() => return End::Polite("end".into()),
            None => return End::Abnormal("ended in the middle of an event".into()),
        }
    }
}

/// Where in the text the stream stands. Lines end with LF here, as all of our servers write them.
#[derive(Default)]
struct Text {
    /// The line that is being read has something in it.
    in_line: bool,
    /// Lines were read since the last empty one.
    in_event: bool,
}

impl Text {
    /// How many events (or comments) ended in `bytes`.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let mut ended = 0;
        for byte in bytes.iter().filter(|byte| **byte != b'\r') {
            match (byte, self.in_line) {
                (b'\n', true) => (self.in_line, self.in_event) = (false, true),
                (b'\n', false) => {
                    ended += usize::from(self.in_event);
                    self.in_event = false;
                }
                _ => self.in_line = true,
            }
        }
        ended
    }

    fn between(&self) -> bool {
        !self.in_line && !self.in_event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_at_their_empty_line_however_they_are_cut() {
        let mut text = Text::default();
        assert!(text.between());
        assert_eq!(text.read(b"id: 1\nda"), 0);
        assert!(!text.between());
        assert_eq!(text.read(b"ta: x\n"), 0);
        assert!(!text.between());
        assert_eq!(text.read(b"\n: comment\r\n\r\n"), 2);
        assert!(text.between());
    }
}
