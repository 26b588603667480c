//! Certificates from files of the machine: read when they changed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::pair::Pair;

/// More than any chain or key has.
const MOST_BYTES: u64 = 1 << 20;

/// What was read, by the paths of certificate and key.
#[derive(Default)]
pub struct Files(BTreeMap<(PathBuf, PathBuf), Known>);

struct Known {
    stamps: [Option<Stamp>; 2],
    read: Result<Pair, String>,
}

/// A file that has the same is the same.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Files {
    /// The pair that the files hold now, or what is wrong with them.
    pub fn read(&mut self, certificate: PathBuf, key: PathBuf) -> Result<Pair, String> {
        let stamps = [stamp(&certificate), stamp(&key)];
        let paths = (certificate, key);
        // What is not there is looked for again each time: the reason may be another one by now.
        let same = |known: &&Known| known.stamps == stamps && !stamps.contains(&None);
        if let Some(known) = self.0.get(&paths).filter(same) {
            return known.read.clone();
        }
        let read = load(&paths.0, &paths.1);
        self.0.insert(paths, Known { stamps, read: read.clone() });
        read
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Pair, String> {
    let chain = text(certificate)?;
    let secret = text(key)?;
    let (certificate, key) = (certificate.display(), key.display());
    Pair::check(chain, secret).map_err(|unfit| match unfit {
        super::pair::Unfit::Key => format!("{key}: {unfit}"),
        super::pair::Unfit::Apart(_) => format!("{certificate} and {key}: {unfit}"),
        _ => format!("{certificate}: {unfit}"),
    })
}

fn text(path: &Path) -> Result<String, String> {
    let failed = |error: io::Error| format!("reading {}: {error}", path.display());
    let long = || failed(io::Error::other("it is longer than any certificate or key"));
    if std::fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
        return Err(long());
    }
    std::fs::read_to_string(path).map_err(failed)
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata: Metadata = std::fs::metadata(path).ok()?;
    Some(Stamp {
        modified: metadata.modified().ok(),
        length: metadata.len(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        std::fs::write(folder.join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.join("k.pem"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn a_changed_pair_is_read_and_what_is_wrong_with_a_broken_one_is_told_without_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = Files::default();
        let mut read = || files.read(folder.path().join("c.pem"), folder.path().join("k.pem"));
        assert!(read().err().unwrap().contains("c.pem"));
        write(folder.path(), "one.example.com");
        let first = read().unwrap();
        assert_eq!(read().unwrap().chain, first.chain);
        std::fs::write(folder.path().join("k.pem"), "half a key").unwrap();
        let problem = read().err().unwrap();
        assert!(problem.contains("k.pem") && !problem.contains("half a key"), "{problem}");
        assert_eq!(read().err().unwrap(), problem);
        write(folder.path(), "two.example.com");
        assert_ne!(read().unwrap().chain, first.chain);
    }
}
