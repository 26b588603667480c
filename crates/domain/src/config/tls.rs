//! Checks `tls`: a certificate from files or from a CA, never both.

use super::file;
use super::mistake::Mistakes;
use super::project::{Acme, CertificateSource, ChallengeKind, Tls};
use super::reader::At;

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Ends of names that no public CA certifies (RFC 2606, RFC 6762, RFC 8375, and `internal` of ICANN).
const PRIVATE: [&str; 9] =
    ["localhost", "local", "internal", "test", "example", "invalid", "lan", "home.arpa", "onion"];

/// HTTPS of an environment that answers at `names`.
pub(super) fn tls<'n>(
    file: &At<file::Tls>,
    names: impl Iterator<Item = &'n str>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Tls> {
    let tls = &file.value;
    let certificate = match (&tls.acme, &tls.certificate, &tls.key) {
        (Some(acme), None, None) => CertificateSource::Acme(self::acme(acme, names, mistakes)?),
        (None, Some(certificate), Some(key)) => CertificateSource::Files {
            certificate: on_the_machine(certificate, mistakes)?,
            key: on_the_machine(key, mistakes)?,
        },
        (acme, certificate, key) => {
            // A part that is there and could not be read is a mistake already.
            if mistakes.has_within(file.extent) {
                return None;
            }
            let (extent, message, help) = match (acme, certificate, key) {
                (Some(acme), ..) => (
                    acme.title,
                    "a certificate comes from files or from a CA, not from both",
                    "keep `acme`, or `certificate` and `key`, and remove the other",
                ),
                (None, Some(certificate), _) => (
                    certificate.title,
                    "`certificate` is of no use without its key",
                    "add `key: <file.pem>`",
                ),
                (None, None, Some(key)) => (
                    key.title,
                    "`key` is of no use without its certificate",
                    "add `certificate: <file.pem>`",
                ),
                (None, None, None) => (
                    file.title,
                    "`tls` does not say where the certificate comes from",
                    "write `tls: { acme: { email: you@example.com } }`, or \
                     `tls: { certificate: <file.pem>, key: <file.pem> }`",
                ),
            };
            mistakes.add(extent, message, help);
            return None;
        }
    };
    Some(Tls { certificate, redirect: tls.redirect.unwrap_or(true) })
}

fn acme<'n>(
    file: &At<file::Acme>,
    names: impl Iterator<Item = &'n str>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Acme> {
    let acme = &file.value;
    if let Some(email) = &acme.email
        && !is_address(&email.value)
    {
        let message = format!("`{}` is not an e-mail address", email.value);
        mistakes.add(email.extent, message, "write the address alone, like `ops@example.com`");
    }
    if let Some(directory) = &acme.directory
        && !is_url(&directory.value)
    {
        let message = format!("`{}` is not the URL of an ACME directory", directory.value);
        let help = format!("write it with `https://`, like `{LETS_ENCRYPT}`");
        mistakes.add(directory.extent, message, help);
    }
    if acme.directory.is_none() && !mistakes.has_within(file.extent) {
        for name in names.filter(|name| is_private(name)) {
            let message = format!("no public CA certifies `{name}`");
            let help =
                "give the environment a public `host`, or name the `directory` of a CA of your own";
            mistakes.add(file.title, message, help);
        }
    }
    let directory = acme.directory.as_ref().map_or(LETS_ENCRYPT, |url| &url.value);
    Some(Acme {
        email: acme.email.as_ref().map(|email| email.value.clone()),
        directory: directory.to_owned(),
        challenge: acme.challenge.unwrap_or(ChallengeKind::Http01),
        trust: match &acme.trust {
            Some(trust) => Some(on_the_machine(trust, mistakes)?),
            None => None,
        },
    })
}

/// A path that the server will read: absolute, or from the project's folder.
fn on_the_machine(path: &At<String>, mistakes: &mut Mistakes<'_>) -> Option<String> {
    if path.value.starts_with('~') || path.value.contains('\0') {
        let message = format!("`{}` is not a path that the server could read", path.value);
        let help = "write it in full, like `/etc/ssl/shop.pem`, or from the project's folder";
        mistakes.add(path.extent, message, help);
        return None;
    }
    Some(path.value.clone())
}

fn is_address(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>,;:\"()[]\\?&".contains(c);
    let parts = text.split_once('@');
    !text.contains(odd)
        && parts.is_some_and(|(name, host)| {
            !name.is_empty() && host.contains('.') && !host.contains('@') && !host.ends_with('.')
        })
}

fn is_url(text: &str) -> bool {
    let host = text.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or(""));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(':') && !host.contains('@'))
        && text.chars().all(|c| c.is_ascii_graphic())
}

fn is_private(name: &str) -> bool {
    let below = |end: &&str| {
        name.strip_suffix(*end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.contains('.') || PRIVATE.iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_public_internet_are_certified() {
        for name in ["shop", "shop.localhost", "a.b.local", "nas.home.arpa", "shop.test"] {
            assert!(is_private(name), "{name}");
        }
        for name in ["shop.example.com", "notlocal.org", "localhost.dev"] {
            assert!(!is_private(name), "{name}");
        }
    }

    #[test]
    fn a_directory_is_a_url_of_https_and_an_address_has_two_sides() {
        assert!(is_url(LETS_ENCRYPT) && is_url("https://127.0.0.1:14000/dir"));
        for url in ["http://ca/dir", "https://", "https:///dir", "https://a b/", "https://u@ca/"] {
            assert!(!is_url(url), "{url}");
        }
        assert!(is_address("ops@example.com"));
        for text in ["ops", "@example.com", "ops@", "ops@host", "a b@example.com", "mailto:o@e.com"]
        {
            assert!(!is_address(text), "{text}");
        }
    }
}
