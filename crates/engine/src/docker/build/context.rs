//! The build context: a tar of a folder, without what `.dockerignore` leaves out, always the same for the same files.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::Ignore;

/// A folder to build from.
#[derive(Debug, Clone)]
pub struct Context {
    /// Absolute. Nobody changes it while it is sent.
    pub root: PathBuf,
    /// From the root.
    pub dockerfile: String,
    /// Its text, if it is not the one that lies there.
    pub inline: Option<String>,
    /// Of every file, in seconds since 1970: what builds and serves goes by it. A commit's own time fits.
    pub modified: u64,
}

/// The file that says what of a context is left out: that of the Dockerfile itself comes first.
pub fn ignore_files(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".into()]
}

impl Context {
    /// Writes the tar.
    pub fn write(&self, into: impl Write) -> io::Result<()> {
        let ignore = self.ignore()?;
        let mut tar = Builder::new(into);
        self.folder(&mut tar, "", &ignore)?;
        if let Some(text) = &self.inline {
            let mut header = self.header(EntryType::Regular, 0o644);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, &self.dockerfile, text.as_bytes())?;
        }
        tar.finish()
    }

    /// The text of the Dockerfile.
    pub fn dockerfile(&self) -> io::Result<String> {
        match &self.inline {
            Some(text) => Ok(text.clone()),
            None => fs::read_to_string(self.root.join(&self.dockerfile)),
        }
    }

    fn ignore(&self) -> io::Result<Ignore> {
        for name in ignore_files(&self.dockerfile) {
            match fs::read_to_string(self.root.join(&name)) {
                Ok(text) => {
                    return Ignore::parse(&text).map_err(|why| {
                        io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {why}"))
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Ignore::default())
    }

    fn folder(&self, tar: &mut Builder<impl Write>, path: &str, ignore: &Ignore) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(path))? {
            // A name that is no text cannot be named in a Dockerfile either.
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        for name in names {
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            if self.inline.is_some() && path == self.dockerfile {
                continue;
            }
            // The builder cannot do without these; what is ignored of them it does not copy.
            let needed = path == self.dockerfile || path == ".dockerignore";
            let metadata = fs::symlink_metadata(self.root.join(&path))?;
            if metadata.is_dir() {
                let way = self.dockerfile.starts_with(&format!("{path}/"));
                if !ignore.leaves_out(&path) {
                    self.entry(tar, &path, EntryType::Directory, 0o755)?;
                }
                if way || !ignore.leaves_out_all_of(&path) {
                    self.folder(tar, &path, ignore)?;
                }
            } else if needed || !ignore.leaves_out(&path) {
                self.file(tar, &path, &metadata)?;
            }
        }
        Ok(())
    }

    fn file(
        &self,
        tar: &mut Builder<impl Write>,
        path: &str,
        metadata: &fs::Metadata,
    ) -> io::Result<()> {
        let full = self.root.join(path);
        if metadata.is_symlink() {
            let mut header = self.header(EntryType::Symlink, 0o777);
            return tar.append_link(&mut header, path, fs::read_link(full)?);
        }
        if !metadata.is_file() {
            return Ok(());
        }
        let executable = metadata.permissions().mode() & 0o111 != 0;
        let mut header = self.header(EntryType::Regular, if executable { 0o755 } else { 0o644 });
        header.set_size(metadata.len());
        tar.append_data(&mut header, path, fs::File::open(full)?)
    }

    fn entry(
        &self,
        tar: &mut Builder<impl Write>,
        path: &str,
        kind: EntryType,
        mode: u32,
    ) -> io::Result<()> {
        let mut header = self.header(kind, mode);
        tar.append_data(&mut header, Path::new(path).join(""), io::empty())
    }

    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.modified);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(files: &[(&str, &str)], dockerfile: &str) -> (tempfile::TempDir, Context) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = folder.path().to_owned();
        (
            folder,
            Context { root, dockerfile: dockerfile.into(), inline: None, modified: 1_700_000_000 },
        )
    }

    fn names(context: &Context) -> Vec<String> {
        let mut bytes = Vec::new();
        context.write(&mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap();
        entries.map(|e| e.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn what_is_left_out_is_not_sent_and_the_dockerfile_always_is() {
        let files = [
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "*\n!src\nsrc/*.log\n"),
            ("src/main.py", "x"),
            ("src/run.log", "x"),
            ("secret", "x"),
        ];
        let (_folder, context) = context(&files, "Dockerfile");
        assert_eq!(names(&context), [".dockerignore", "Dockerfile", "src/", "src/main.py"]);
    }

    #[test]
    fn the_dockerfiles_own_list_comes_first() {
        let files = [
            ("docker/Dockerfile", "FROM scratch"),
            ("docker/Dockerfile.dockerignore", "docker\na\n"),
            (".dockerignore", "b\n"),
            ("a", "x"),
            ("b", "x"),
        ];
        let (_folder, context) = context(&files, "docker/Dockerfile");
        assert_eq!(names(&context), [".dockerignore", "b", "docker/Dockerfile"]);
    }

    #[test]
    fn a_dockerfile_that_is_no_file_takes_the_place_of_one() {
        let (_folder, mut context) = context(&[("Dockerfile", "FROM a"), ("x", "")], "Dockerfile");
        context.inline = Some("FROM b".into());
        assert_eq!(names(&context), ["x", "Dockerfile"]);
        assert_eq!(context.dockerfile().unwrap(), "FROM b");
    }

    #[test]
    fn the_same_files_make_the_same_bytes_whoever_wrote_them_and_when() {
        let files = [("Dockerfile", "FROM scratch"), ("a/b", "x"), ("run", "x")];
        let bytes = |touched: bool| {
            let (folder, context) = context(&files, "Dockerfile");
            let mode = if touched { 0o700 } else { 0o755 };
            let rights = fs::Permissions::from_mode(mode);
            fs::set_permissions(folder.path().join("run"), rights).unwrap();
            std::os::unix::fs::symlink("a/b", folder.path().join("link")).unwrap();
            let mut bytes = Vec::new();
            context.write(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(bytes(false), bytes(true));
    }
}
