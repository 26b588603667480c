//! The certificate that every proxy shows: ECDSA P-256, self-signed, for [`HOST`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::Unprivileged;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use super::ground::own;
use super::{Outcome, failing};

/// The name that clients ask for. It resolves to 127.0.0.1 everywhere.
pub const HOST: &str = "localhost";

/// Files in PEM, and what a client needs to believe them.
pub struct Certificate {
    /// The chain.
    pub chain: PathBuf,
    pub key: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pub both: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(super) fn make(folder: &Path, user: Option<&Unprivileged>) -> Outcome<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])
            .map_err(failing("making a certificate"))?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(failing(format_args!("writing {}", path.display())))?;
            own(&path, user)?;
            Ok(path)
        };
        Ok(Self {
            chain: write("certificate.pem", &chain)?,
            key: write("key.pem", &key)?,
            both: write("both.pem", &(chain + &key))?,
            der: made.cert.der().clone(),
        })
    }

    /// A client that believes this certificate and always shakes hands in full.
    pub fn client(&self, alpn: &[&[u8]]) -> Outcome<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).map_err(failing("trusting the benchmark's certificate"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failing("choosing TLS versions"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }
}
