//! Asks the edge what the CA will ask it: nobody is told to look before the answer is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring::default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(5);
const MOST_ANSWER: u64 = 16 * 1024;

/// Whether the edge at `address` answers for `name` as HTTP-01 wants it.
pub async fn over_http(
    address: SocketAddr,
    name: &str,
    token: &str,
    wanted: &str,
) -> Result<(), String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MOST_ANSWER).read_to_end(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = within(ask).await?;
    let good =
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{wanted}"));
    let said = answer.lines().next().unwrap_or("nothing");
    if good { Ok(()) } else { Err(format!("the edge answers `{said}` to the challenge of {name}")) }
}

/// Whether the edge at `address` presents `wanted` for `name` as TLS-ALPN-01 wants it.
pub async fn over_tls(
    address: SocketAddr,
    name: &str,
    wanted: CertificateDer<'static>,
) -> Result<(), String> {
    let verifier = Arc::new(Exactly { wanted, provider: default_provider() });
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config =
        config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    within(async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await.map(drop)
    })
    .await
}

async fn within<T>(ask: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    let asked = tokio::time::timeout(PATIENCE, ask).await;
    let asked = asked.map_err(|_| "the edge does not answer the challenge in time".to_owned())?;
    asked.map_err(|error| format!("asking the edge for the challenge: {error}"))
}

/// Takes one certificate, and no other. Signatures are the CA's to check: webpki refuses to read a
/// certificate with the critical extension of RFC 8737, and nothing secret is sent here.
#[derive(Debug)]
struct Exactly {
    wanted: CertificateDer<'static>,
    provider: CryptoProvider,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *end_entity == self.wanted {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::General("it presents another certificate".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
