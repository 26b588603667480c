//! The standard streams of a command that [`Engine::exec`](crate::Engine::exec) runs.

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc::Sender;

/// What it reads, and who hears what it says.
pub struct Streams {
    pub input: Input,
    /// Nothing is dropped: the command waits for whoever listens, and is stopped once nobody does any more.
    pub output: Sender<Said>,
}

/// What a command reads from its standard input; `tokio::io::empty()` for nothing.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// A piece of what a command writes, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Output(Bytes),
    Errors(Bytes),
}
