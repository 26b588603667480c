//! A certificate with its chain and key that belong together.

use domain::Timestamp;
use domain::certificate::Validity;
use rustls::client::verify_server_name;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Checked: the key is that of the certificate. Not printable, because of the key.
#[derive(Clone)]
pub struct Pair {
    /// PEM.
    pub chain: String,
    /// PEM.
    pub key: String,
    pub validity: Validity,
}

/// Why chain and key are of no use. Says nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("there is no PEM certificate in it")]
    Chain,
    #[error("there is no unencrypted PEM private key in it")]
    Key,
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("certificate and key do not fit: {0}")]
    Apart(String),
}

impl Pair {
    /// Chain and key as PEM, if they belong together.
    pub fn check(chain: String, key: String) -> Result<Self, Unfit> {
        let certificates = read_chain(&chain).ok_or(Unfit::Chain)?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Unfit::Key)?;
        let first = certificates.first().ok_or(Unfit::Chain)?;
        let (_, certificate) = X509Certificate::from_der(first)
            .map_err(|error| Unfit::Unreadable(error.to_string()))?;
        let validity = certificate.validity();
        let at = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_millis(time.timestamp().saturating_mul(1000))
        };
        let validity = Validity { from: at(validity.not_before), until: at(validity.not_after) };
        CertifiedKey::from_der(certificates, private, &default_provider())
            .map_err(|error| Unfit::Apart(error.to_string()))?;
        Ok(Self { chain, key, validity })
    }

    /// Why clients that ask for one of `names` will refuse it, if they will.
    pub fn refused(&self, names: &[String], now: Timestamp) -> Option<String> {
        if self.validity.expired(now) {
            return Some("it has expired: put a newer one in its place".into());
        }
        let others: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| !self.covers(name)).collect();
        (!others.is_empty()).then(|| {
            format!("it is not for {}: clients will refuse it there", others.join(" and "))
        })
    }

    /// As clients look at it (RFC 9525).
    fn covers(&self, name: &str) -> bool {
        let first = CertificateDer::from_pem_slice(self.chain.as_bytes()).ok();
        let certificate = first.as_ref().and_then(|first| ParsedCertificate::try_from(first).ok());
        certificate
            .zip(ServerName::try_from(name).ok())
            .is_some_and(|(certificate, name)| verify_server_name(&certificate, &name).is_ok())
    }
}

/// SHA-256 of the first certificate, hexadecimal.
pub fn fingerprint(chain: &str) -> Option<String> {
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).ok()?;
    Some(hex::encode(Sha256::digest(&first)))
}

fn read_chain(chain: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_not_shown() {
        let ((chain, key), (_, other)) = (made(), made());
        assert!(Pair::check(chain.clone(), key.clone()).is_ok());
        let refused = Pair::check(chain.clone(), other.clone()).err().unwrap();
        assert!(matches!(refused, Unfit::Apart(_)), "{refused}");
        assert!(!refused.to_string().contains("PRIVATE KEY"));
        assert_eq!(Pair::check(key, other).err(), Some(Unfit::Chain));
        assert_eq!(Pair::check(chain.clone(), chain).err(), Some(Unfit::Key));
    }

    #[test]
    fn what_clients_will_refuse_is_named() {
        let (chain, key) = made();
        let pair = Pair::check(chain, key).unwrap();
        let refused = |names: &[&str], now| {
            pair.refused(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), now)
        };
        let now = pair.validity.from;
        assert_eq!(refused(&["shop.example.com"], now), None);
        let other = refused(&["shop.example.com", "www.example.com"], now).unwrap();
        assert!(other.contains("not for www.example.com:"), "{other}");
        assert!(refused(&["shop.example.com"], pair.validity.until).unwrap().contains("expired"));
    }
}
