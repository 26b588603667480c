//! Certificates as the edge is given them, and the copy on its disk that it serves from when it is alone.
//!
//! ```text
//!   server ── PUT /certificates ──▶ compile (tls.rs) ──▶ certificates.json (0600, synced) ──▶ in force
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything the edge needs to speak TLS: put whole, it replaces what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// The first one also answers clients that ask for a name that no certificate covers, or for none.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    #[serde(default)]
    pub challenges: Challenges,
}

/// A certificate with its chain and key, as PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The host names it is presented for; empty means those that it is made out to.
    #[serde(default)]
    pub names: Vec<String>,
    /// The certificate, then those that lead to the root.
    pub chain: String,
    pub key: PrivateKey,
}

/// What an ACME server asks for, to be convinced that a name is ours; only while an order is pending.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenges {
    /// HTTP-01 (RFC 8555, 8.3): token to key authorization.
    #[serde(default)]
    pub http: BTreeMap<String, String>,
    /// TLS-ALPN-01 (RFC 8737): host name to the certificate that proves it.
    #[serde(default)]
    pub tls_alpn: BTreeMap<String, Challenge>,
}

/// The self-signed certificate of a TLS-ALPN-01 challenge, as PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    pub chain: String,
    pub key: PrivateKey,
}

/// A private key as PEM (PKCS#8, PKCS#1 or SEC1). Printing it for people shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(String);

/// What may be told about a certificate in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateInfo {
    /// The host names it is presented for.
    pub names: Vec<String>,
    /// RFC 3339, UTC.
    pub not_after: String,
    /// Hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
}

impl PrivateKey {
    pub fn new(pem: impl Into<String>) -> Self {
        Self(pem.into())
    }

    /// The key itself: for signing and for the disk, never for people.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

/// The certificates' file, `certificates.json`.
pub struct CertificatesFile {
    folder: PathBuf,
}

impl CertificatesFile {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("certificates.json")
    }

    /// What was acknowledged last; nothing if there is no file or it cannot be read as one.
    pub fn load(&self) -> Certificates {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Certificates::default();
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the certificates cannot be read: no TLS until they are given again");
                return Certificates::default();
            }
        };
        parse(&text).unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "the file of certificates is damaged: no TLS until they are given again");
            Certificates::default()
        })
    }

    /// Writes `certificates` so that after a crash at any point either the old or the new ones are read, whole.
    pub fn save(&self, certificates: &Certificates) -> io::Result<()> {
        let temporary = self.folder.join("certificates.json.new");
        // One that a crash left behind may have other rights.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(certificates)?)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path())?;
        File::open(&self.folder)?.sync_all()
    }
}

/// Reads JSON. The error names the place only: the text around it may be a key.
pub fn parse(text: &[u8]) -> Result<Certificates, String> {
    serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("not the JSON of certificates: line {line}, column {column} does not fit")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn some() -> Certificates {
        let key = PrivateKey::new("the secret");
        let certificate = Certificate { names: Vec::new(), chain: "chain".into(), key };
        Certificates { certificates: vec![certificate], ..Certificates::default() }
    }

    #[test]
    fn a_key_is_not_shown_to_people() {
        assert!(!format!("{:?}", some()).contains("secret"));
        let broken = br#"{"certificates": [{"chain": "x", "key": ["the secret"]}]}"#;
        assert!(!parse(broken).unwrap_err().contains("secret"));
    }

    #[test]
    fn saved_certificates_are_read_back_and_only_the_owner_may_read_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = CertificatesFile::new(folder.path());
        assert_eq!(file.load(), Certificates::default());
        fs::write(folder.path().join("certificates.json.new"), "left behind").unwrap();
        file.save(&some()).unwrap();
        assert_eq!(file.load(), some());
        let rights = fs::metadata(file.path()).unwrap().permissions().mode();
        assert_eq!(rights & 0o777, 0o600);
    }
}
