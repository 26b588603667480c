//! A client as strict as a browser: it takes only what leads to the given root, for the name it asked for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub struct Answer {
    /// What the server presented.
    pub certificate: CertificateDer<'static>,
    pub body: String,
}

/// `GET path` of `name` at `address`, over TLS verified against `root`.
pub async fn get(
    address: SocketAddr,
    name: &str,
    path: &str,
    root: CertificateDer<'static>,
) -> io::Result<Answer> {
    let mut roots = RootCertStore::empty();
    roots.add(root).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let asked = tokio::time::timeout(Duration::from_secs(10), async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let certificate = stream.get_ref().1.peer_certificates().unwrap_or_default().first();
        let certificate = certificate.ok_or_else(|| io::Error::other("no certificate"))?.clone();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        io::Result::Ok(Answer { certificate: certificate.into_owned(), body: body.into() })
    });
    asked.await.map_err(io::Error::other)?
}
