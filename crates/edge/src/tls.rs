//! TLS on client connections: which certificate is presented to whom, and the handshake.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ConfigBuilder;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ProducesTickets, ServerConfig, WantsServerCert,
};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificates::{Certificate, CertificateInfo, Certificates, PrivateKey};
use crate::config::Limits;
use crate::live::host_name;
use crate::stream::Stream;

/// All certificates in force: compiled once, shared by all workers, never changed.
#[derive(Default)]
pub struct Tls {
    /// As they were put, for comparison and for the disk.
    pub given: Certificates,
    presented: Vec<Arc<Presented>>,
    /// By host name; a wildcard stands under its own spelling.
    by_name: HashMap<String, Arc<Presented>>,
    challenges: HashMap<String, Arc<ServerConfig>>,
}

/// One certificate as connections present it.
pub struct Presented {
    names: Vec<String>,
    info: CertificateInfo,
    config: Arc<ServerConfig>,
}

/// A connection whose handshake is over.
pub struct Secured {
    /// On the heap: it is large, and each place that it passes would keep room for it.
    pub stream: Box<TlsStream<Stream>>,
    pub certificate: Arc<Presented>,
    pub http2: bool,
}

/// Why offered certificates are not taken. Says nothing of a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error(
        "{what}: the chain is not PEM with at least one certificate; give the file `fullchain.pem` or its like"
    )]
    Chain { what: String },
    #[error(
        "{what}: the key is not a PEM private key; give it unencrypted, as PKCS#8, PKCS#1 or SEC1"
    )]
    Key { what: String },
    #[error("{what}: {why}; give the certificate and the key that was made for it")]
    Pair { what: String, why: String },
    #[error("{what}: it is made out to no host name; say its names")]
    Nameless { what: String },
    #[error("{what}: `{name}` is no host name")]
    Name { what: String, name: String },
    #[error("the session tickets have no key: {0}; try again")]
    Tickets(String),
}

const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";
const ALPN_CHALLENGE: &[u8] = b"acme-tls/1";

/// The fatal alert for a name that we have nothing for (RFC 6066, 3), as a record.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// A ticketer for all workers and all certificates, so that a session is resumed wherever it comes back.
/// It changes its key every six hours and takes back tickets of the one before.
pub fn ticketer() -> Result<Arc<dyn ProducesTickets>, Unusable> {
    ring::Ticketer::new().map_err(|error| Unusable::Tickets(error.to_string()))
}

impl Tls {
    /// Checks `given` and makes of it what handshakes use. Nothing is in force yet.
    pub fn compile(
        given: Certificates,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Self, Unusable> {
        let mut tls = Self::default();
        for (nth, certificate) in given.certificates.iter().enumerate() {
            let presented = Arc::new(present(certificate, nth, ticketer)?);
            for name in &presented.names {
                tls.by_name.entry(name.clone()).or_insert_with(|| presented.clone());
            }
            tls.presented.push(presented);
        }
        for (name, challenge) in &given.challenges.tls_alpn {
            let what = format!("TLS-ALPN-01 challenge for {name}");
            let chain = read_chain(&challenge.chain, &what)?;
            let mut config = challenge_config(chain, &challenge.key, &what)?;
            config.alpn_protocols = vec![ALPN_CHALLENGE.to_vec()];
            tls.challenges.insert(host_name(name).to_ascii_lowercase(), Arc::new(config));
        }
        tls.given = given;
        Ok(tls)
    }

    /// The certificates in force, without their secrets.
    pub fn info(&self) -> Vec<CertificateInfo> {
        self.presented.iter().map(|presented| presented.info.clone()).collect()
    }

    /// The key authorization of a pending HTTP-01 challenge.
    pub fn http_challenge(&self, token: &str) -> Option<&str> {
        self.given.challenges.http.get(token).map(String::as_str)
    }

    /// The certificate that covers `host`, by its full name before by a wildcard.
    pub fn covering(&self, host: &str) -> Option<&Arc<Presented>> {
        let wildcard = || self.by_name.get(&format!("*.{}", host.split_once('.')?.1));
        self.by_name.get(host).or_else(wildcard)
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<Choice> {
        let name = hello.server_name().map(|name| host_name(name).into_owned());
        let mut offered = hello.alpn().into_iter().flatten();
        if offered.any(|protocol| protocol == ALPN_CHALLENGE) {
            return self.challenges.get(&name?).cloned().map(Choice::Challenge);
        }
        let covering = name.and_then(|name| self.covering(&name));
        covering.or(self.presented.first()).cloned().map(Choice::Present)
    }
}

enum Choice {
    Present(Arc<Presented>),
    Challenge(Arc<ServerConfig>),
}

impl Presented {
    /// Whether it is presented for `host`.
    pub fn covers(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => Some(suffix) == parent,
            None => name == host,
        })
    }
}

/// Makes the handshake. `Ok(None)`: it was a challenge, and all is said.
pub async fn handshake(tls: &Tls, stream: Stream, limits: &Limits) -> io::Result<Option<Secured>> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    timeout(limits.head, exchange(tls, stream)).await.map_err(late)?
}

async fn exchange(tls: &Tls, stream: Stream) -> io::Result<Option<Secured>> {
    let tcp = stream.clone();
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let Some(choice) = tls.choose(&start.client_hello()) else {
        // One try: the refusal is the same without it, only less clear.
        let _ = tcp.send_now(UNRECOGNIZED_NAME);
        return Err(io::Error::other("no certificate for the name that was asked for"));
    };
    let certificate = match choice {
        Choice::Present(certificate) => certificate,
        Choice::Challenge(config) => {
            let mut stream = start.into_stream(config).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
            return Ok(None);
        }
    };
    let stream = Box::new(start.into_stream(certificate.config.clone()).await?);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(ALPN_HTTP2);
    Ok(Some(Secured { stream, certificate, http2 }))
}

fn present(
    certificate: &Certificate,
    nth: usize,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<Presented, Unusable> {
    let what = match certificate.names.first() {
        Some(name) => format!("certificate {} ({name})", nth + 1),
        None => format!("certificate {}", nth + 1),
    };
    let chain = read_chain(&certificate.chain, &what)?;
    let (made_out_to, mut info) = describe(&chain, &what)?;
    let given = if certificate.names.is_empty() { &made_out_to } else { &certificate.names };
    info.names = given.iter().map(|name| plain_name(name, &what)).collect::<Result<_, _>>()?;
    if info.names.is_empty() {
        return Err(Unusable::Nameless { what });
    }
    let mut config = server_config(chain, &certificate.key, &what)?;
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    config.ticketer = ticketer.clone();
    Ok(Presented { names: info.names.clone(), info, config: Arc::new(config) })
}

fn plain_name(name: &str, what: &str) -> Result<String, Unusable> {
    let plain = host_name(name).to_ascii_lowercase();
    let host = plain.strip_prefix("*.").unwrap_or(&plain);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err(Unusable::Name { what: what.into(), name: name.into() });
    }
    Ok(plain)
}

fn read_chain(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    chain.ok_or_else(|| Unusable::Chain { what: what.into() })
}

/// The host names that the first certificate of `chain` is made out to, and what may be told about it.
fn describe(
    chain: &[CertificateDer<'_>],
    what: &str,
) -> Result<(Vec<String>, CertificateInfo), Unusable> {
    let unreadable = || Unusable::Chain { what: what.into() };
    let leaf = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| unreadable())?;
    let alternatives = certificate.subject_alternative_name().map_err(|_| unreadable())?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let not_after = certificate.validity().not_after.timestamp();
    let not_after = Timestamp::from_second(not_after).map_err(|_| unreadable())?;
    if not_after < Timestamp::now() {
        tracing::warn!(certificate = what, %not_after, "the certificate has expired; clients will refuse it");
    }
    let info = CertificateInfo {
        names: Vec::new(),
        not_after: not_after.to_string(),
        serial: hex::encode(certificate.raw_serial()),
        fingerprint: hex::encode(Sha256::digest(leaf)),
    };
    Ok((names.collect(), info))
}

/// A configuration that presents `chain`, if the key fits it.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
    what: &str,
) -> Result<ServerConfig, Unusable> {
    let config = builder(what)?.with_single_cert(chain, read_key(key, what)?);
    let mut config = config.map_err(|error| pair(what, error))?;
    // Sessions are with the clients, in tickets: the edge keeps nothing for those that do not come back.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The same for a challenge, whose certificate has an extension that only ACME servers understand.
fn challenge_config(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKey,
    what: &str,
) -> Result<ServerConfig, Unusable> {
    let key = ring::sign::any_supported_type(&read_key(key, what)?);
    let key = CertifiedKey::new(chain, key.map_err(|error| pair(what, error))?);
    Ok(builder(what)?.with_cert_resolver(Arc::new(SingleCertAndKey::from(key))))
}

/// With the provider named: there may be no default one in the process.
fn builder(what: &str) -> Result<ConfigBuilder<ServerConfig, WantsServerCert>, Unusable> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| pair(what, error))?;
    Ok(builder.with_no_client_auth())
}

fn read_key(key: &PrivateKey, what: &str) -> Result<PrivateKeyDer<'static>, Unusable> {
    PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| Unusable::Key { what: what.into() })
}

fn pair(what: &str, error: tokio_rustls::rustls::Error) -> Unusable {
    Unusable::Pair { what: what.into(), why: error.to_string() }
}
