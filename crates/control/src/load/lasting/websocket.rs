//! One WebSocket: opened, listened to, and how it ended.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::tally::Tally;
use super::{ClientKind, Ear, End, LastingLoad};

/// There are thousands of them in one process, and messages are small.
const BUFFER: usize = 4 * 1024;
const LARGEST: usize = 1024 * 1024;
/// For the connection to end after the Close frames.
const GOODBYE: Duration = Duration::from_secs(2);

type Socket = WebSocketStream<TcpStream>;

pub(super) async fn open(load: &LastingLoad) -> Result<Socket, String> {
    let target = &load.target;
    let stream = TcpStream::connect(target.connect)
        .await
        .map_err(|error| format!("cannot connect to {}: {error}", target.connect))?;
    // Only affects speed, so a refusal is no failure.
    let _ = stream.set_nodelay(true);
    let address = format!("ws://{}{}", target.host, load.websocket_path);
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    let opened = tokio_tungstenite::client_async_with_config(&address, stream, Some(config)).await;
    opened.map(|(socket, _)| socket).map_err(|error| format!("opening {address}: {error}"))
}

pub(super) async fn listen(mut socket: Socket, silence: Duration, tally: &Tally) -> End {
    let mut ear = Ear::new(ClientKind::WebSocket, silence, tally);
    loop {
        let heard = match ear.hear(socket.next()).await {
            Ok(heard) => heard,
            Err(end) => return end,
        };
        match heard {
            Some(Ok(Message::Close(frame))) => {
                // The answer to it is on its way while the end of the connection is awaited.
                let _ = timeout(GOODBYE, socket.next()).await;
                return closed(frame);
            }
            Some(Ok(Message::Text(_) | Message::Binary(_))) => {
                tally.message(ClientKind::WebSocket);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return End::Abnormal(broken(&error)),
            None => return End::Abnormal("the connection ended without a Close frame".into()),
        }
    }
}

/// Codes by which a server takes leave (RFC 6455, section 7.4.1, and the IANA registry for 1012).
fn closed(frame: Option<CloseFrame>) -> End {
    let Some(frame) = frame else { return End::Polite("none".into()) };
    let code = u16::from(frame.code).to_string();
    match frame.code {
        CloseCode::Normal | CloseCode::Away | CloseCode::Restart => End::Polite(code),
        _ => End::Abnormal(format!("closed with {code}: {}", frame.reason)),
    }
}

fn broken(error: &Error) -> String {
    match error {
        Error::Protocol(error) => format!("1006: {error}"),
        Error::Io(error) => format!("1006: {error}"),
        other => other.to_string(),
    }
}
