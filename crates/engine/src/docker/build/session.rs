//! The session of a build: while it runs, BuildKit asks back on a connection of its own for the build's secrets
//! and for credentials of registries. It is HTTP/2 turned round, with a few unary gRPC calls; no file is synced.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinHandle;

use super::credentials::Credentials;
use super::trace::{Value, field, fields};
use super::wire::Place;
use super::{BuildError, said};

/// No call that BuildKit makes is larger.
const LARGEST: usize = 64 * 1024;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";

/// grpc-status (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
const OK: u8 = 0;
const NOT_FOUND: u8 = 5;
const UNIMPLEMENTED: u8 = 12;

/// An open session. It ends when this is dropped.
pub struct Session {
    pub id: String,
    serving: JoinHandle<()>,
}

/// What a session can be asked for.
pub struct Answers {
    /// By the id that `RUN --mount=type=secret,id=...` names.
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub credentials: Credentials,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Session {
    /// Opens a session with the Engine.
    pub async fn open(place: &Place, answers: Answers) -> Result<Self, BuildError> {
        let id = hex::encode(rand::random::<[u8; 16]>());
        let mut wire = place.dial().await?;
        let mut request = Request::post("/session")
            .header("host", "docker")
            .header("connection", "Upgrade")
            .header("upgrade", "h2c")
            .header("x-docker-expose-session-uuid", &id)
            .header("x-docker-expose-session-name", "launchway");
        for method in [HEALTH, SECRET, CREDENTIALS] {
            request = request.header("x-docker-expose-session-grpc-method", method);
        }
        let body = Empty::new().map_err(|never: Infallible| match never {}).boxed();
        let request = request.body(body).map_err(BuildError::broken)?;
        let answer = wire.send(request).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(BuildError::Refused(said(answer).await));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(BuildError::broken)?;
        let answers = Arc::new(answers);
        let serving = tokio::spawn(async move {
            let _open = wire;
            let service = service_fn(move |request| {
                let answers = answers.clone();
                async move { Ok::<_, Infallible>(answers.answer(request).await) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // The Engine ends it when the build is done.
            let _ended = server.serve_connection(upgraded, service).await;
        });
        Ok(Self { id, serving })
    }
}

impl Answers {
    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        let body = http_body_util::Limited::new(request.into_body(), LARGEST).collect().await;
        let asked = body.map(|body| body.to_bytes()).unwrap_or_default();
        // One message: a flag, its length in four bytes, itself.
        let asked = first_text(asked.get(5..).unwrap_or_default());
        match path.as_str() {
            // SERVING.
            HEALTH => reply(OK, &[8, 1]),
            SECRET => match self.secrets.get(&asked) {
                Some(secret) => reply(OK, &field(1, secret)),
                None => reply(NOT_FOUND, &[]),
            },
            CREDENTIALS => match self.credentials.of(&asked).await {
                Some(login) => {
                    let user = field(1, login.user.as_bytes());
                    reply(OK, &[user, field(2, login.secret.as_bytes())].concat())
                }
                None => reply(OK, &[]),
            },
            _ => reply(UNIMPLEMENTED, &[]),
        }
    }
}

/// Field 1 of a message, which is what each of these calls asks for.
fn first_text(message: &[u8]) -> String {
    let text = fields(message).find_map(|(number, value)| match (number, value) {
        (1, Value::Bytes(text)) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    });
    text.unwrap_or_default()
}

fn reply(status: u8, message: &[u8]) -> Response<BoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    let mut framed = BytesMut::new();
    if status == OK {
        framed.put_u8(0);
        // None of ours comes near four gigabytes.
        framed.put_u32(message.len() as u32);
        framed.put_slice(message);
    }
    let body = Full::new(framed.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_a_framed_message_and_a_status_in_the_trailers() {
        let mut body = reply(OK, b"abc").into_body();
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame: hyper::body::Frame<Bytes> = frame.unwrap();
            match frame.into_data() {
                Ok(data) => seen.extend(data),
                Err(frame) => {
                    assert_eq!(frame.into_trailers().unwrap()["grpc-status"], "0");
                }
            }
        }
        assert_eq!(seen, b"\0\0\0\0\x03abc");
    }
}
