//! What a container writes, line by line: what it wrote last, and from now on over its restarts.

use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::StreamExt;

use crate::EngineError;

use super::{Phase, ProjectEngine};

/// A line longer than this comes in pieces.
const LONGEST: usize = 64 * 1024;
/// Before the log of a container that is started again is asked for.
const AGAIN: Duration = Duration::from_millis(200);

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Error,
}

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub stream: Stream,
    pub text: String,
}

impl ProjectEngine {
    /// Hands every line to `say`, those from the beginning of this second on (`since`: seconds since 1970), until the container
    /// has ended and stays so, or is gone. How it ended; `None` if it is gone.
    pub async fn follow(
        &self,
        id: &str,
        since: i32,
        say: &mut (dyn FnMut(Line) + Send),
    ) -> Result<Option<Phase>, EngineError> {
        self.on(id, &mut Reader::default(), since, say).await
    }

    async fn on(
        &self,
        id: &str,
        reader: &mut Reader,
        since: i32,
        say: &mut (dyn FnMut(Line) + Send),
    ) -> Result<Option<Phase>, EngineError> {
        loop {
            self.read(id, since, reader, say).await?;
            match self.look(id).await?.map(|look| look.phase) {
                Some(Phase::Running | Phase::Restarting) => tokio::time::sleep(AGAIN).await,
                ended => return Ok(ended),
            }
        }
    }

    /// The last lines that it wrote, oldest first.
    pub async fn tail(&self, id: &str, lines: usize) -> Result<Vec<String>, EngineError> {
        let mut all = Vec::new();
        let mut keep = |line: Line| all.push(line.text);
        self.last(id, lines, &mut Reader::default(), &mut keep).await?;
        Ok(all)
    }

    /// Hands the last lines that it wrote to `say`, and with `on` goes on as [`ProjectEngine::follow`] does.
    pub async fn show(
        &self,
        id: &str,
        lines: usize,
        on: bool,
        say: &mut (dyn FnMut(Line) + Send),
    ) -> Result<(), EngineError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut reader = Reader::default();
        self.last(id, lines, &mut reader, say).await?;
        if on {
            self.on(id, &mut reader, i32::try_from(now).unwrap_or(0), say).await?;
        }
        Ok(())
    }

    async fn last(
        &self,
        id: &str,
        lines: usize,
        reader: &mut Reader,
        say: &mut (dyn FnMut(Line) + Send),
    ) -> Result<(), EngineError> {
        let doing = format!("reading the log of {id}");
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .tail(&lines.to_string())
            .build();
        let mut said = Pin::from(Box::new(self.docker(&doing).await?.logs(id, Some(options))));
        while let Some(piece) = said.next().await {
            reader.take(piece.map_err(|error| self.failed(&doing, error))?, say);
        }
        reader.end(say);
        Ok(())
    }

    async fn read(
        &self,
        id: &str,
        since: i32,
        reader: &mut Reader,
        say: &mut (dyn FnMut(Line) + Send),
    ) -> Result<(), EngineError> {
        let doing = format!("reading the log of {id}");
        let docker = self.docker(&doing).await?;
        let options = LogsOptionsBuilder::new()
            .follow(true)
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .since(since)
            .build();
        let mut said = Pin::from(Box::new(docker.logs(id, Some(options))));
        while let Some(piece) = said.next().await {
            match piece {
                Ok(piece) => reader.take(piece, say),
                // A quiet container is no trouble, and one that was removed is looked for by the caller.
                Err(bollard::errors::Error::RequestTimeoutError) => break,
                Err(error) if super::is_missing(&error) => break,
                Err(error) => return Err(self.failed(&doing, error)),
            }
        }
        reader.end(say);
        Ok(())
    }
}

/// Makes lines of pieces, and leaves out what was read before: the log is read from `since` on after each restart.
#[derive(Default)]
struct Reader {
    out: Vec<u8>,
    error: Vec<u8>,
    /// The time of the newest line, as the Engine writes it: RFC 3339 with nanoseconds, all of one width.
    newest: String,
    /// What `newest` was when this reading began. Within a reading the two streams may overtake each other.
    seen: String,
}

impl Reader {
    fn take(&mut self, piece: LogOutput, say: &mut (dyn FnMut(Line) + Send)) {
        let (stream, message) = match piece {
            LogOutput::StdErr { message } => (Stream::Error, message),
            LogOutput::StdOut { message }
            | LogOutput::Console { message }
            | LogOutput::StdIn { message } => (Stream::Out, message),
        };
        self.open(stream).extend_from_slice(&message);
        loop {
            let open = self.open(stream);
            let end = open.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
            let Some(end) = end.or((open.len() > LONGEST).then_some(open.len())) else { return };
            let line: Vec<u8> = open.drain(..end).collect();
            self.line(stream, &line, say);
        }
    }

    /// The log has ended for now.
    fn end(&mut self, say: &mut (dyn FnMut(Line) + Send)) {
        for stream in [Stream::Out, Stream::Error] {
            let rest = std::mem::take(self.open(stream));
            if !rest.is_empty() {
                self.line(stream, &rest, say);
            }
        }
        self.seen.clone_from(&self.newest);
    }

    fn open(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Out => &mut self.out,
            Stream::Error => &mut self.error,
        }
    }

    fn line(&mut self, stream: Stream, bytes: &[u8], say: &mut (dyn FnMut(Line) + Send)) {
        let line = String::from_utf8_lossy(bytes);
        let line = line.trim_end_matches(['\n', '\r']);
        let (time, text) = line.split_once(' ').unwrap_or((line, ""));
        if time <= self.seen.as_str() {
            return;
        }
        if time > self.newest.as_str() {
            time.clone_into(&mut self.newest);
        }
        say(Line { stream, text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reader: &mut Reader, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |line: Line| lines.push(line.text);
        for piece in text.as_bytes().chunks(7) {
            reader.take(LogOutput::StdOut { message: piece.to_vec().into() }, &mut say);
        }
        reader.end(&mut say);
        lines
    }

    #[test]
    fn what_was_said_before_a_restart_is_said_once() {
        let mut reader = Reader::default();
        let first = "2026-01-01T00:00:01.000000001Z one\n2026-01-01T00:00:01.000000002Z two\n";
        assert_eq!(read(&mut reader, first), ["one", "two"]);
        let all = format!("{first}2026-01-01T00:00:02.000000000Z three");
        assert_eq!(read(&mut reader, &all), ["three"]);
        assert_eq!(read(&mut reader, &all), [""; 0]);
    }

    #[test]
    fn an_empty_line_is_a_line() {
        let mut reader = Reader::default();
        assert_eq!(read(&mut reader, "2026-01-01T00:00:01.000000001Z \n"), [""]);
    }
}
