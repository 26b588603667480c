//! Where things lie below the app's state folder.
//!
//! ```text
//! build-home/               HOME of every step: caches of pip, npm and the like; services have another
//! key                       secret of the fingerprints of environment variables
//! runs/RUN/checkout         removed when the run has ended
//! runs/RUN/tmp              TMPDIR, removed with it
//! runs/RUN/contexts/SERVICE what an image is built from, removed once it is
//! runs/RUN/scan/STEP        what scanners are given and write, removed with it
//! runs/RUN/steps/STEP/      log, manifest.json, result.json, reports: kept
//! steps/KEY.json            the passed result for these inputs
//! listings/DIGEST.json      lists of input files, shared by manifests
//! artifacts/KEY/            tree, building.json, complete.json
//! images/KEY.json           which image was built for these inputs; the Docker Engine has it
//! mounts/DIGEST/NAME        files of a commit that containers mount, by their content, read-only
//! bills/KEY.json            the bill of materials of an artifact
//! throwaway/ENVIRONMENT     environments that must be torn down
//! ```

use std::path::{Path, PathBuf};

use domain::{Digest, RunId, StepName};

/// The folders and files of the build pipeline.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("build-home")
    }

    pub fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    pub fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub fn run(&self, scope: &str) -> PathBuf {
        self.runs().join(scope)
    }

    pub fn temporary(&self, scope: &str) -> PathBuf {
        self.run(scope).join("tmp")
    }

    pub fn step(&self, run: &RunId, step: &StepName) -> PathBuf {
        self.scoped_step(run.as_str(), step)
    }

    pub fn scoped_step(&self, scope: &str, step: &StepName) -> PathBuf {
        self.run(scope).join("steps").join(file_name(step.as_str()))
    }

    pub fn result_of(&self, key: &Digest) -> PathBuf {
        self.root.join("steps").join(format!("{key}.json"))
    }

    pub fn listing(&self, digest: &Digest) -> PathBuf {
        self.root.join("listings").join(format!("{digest}.json"))
    }

    pub fn artifact(&self, key: &Digest) -> PathBuf {
        self.root.join("artifacts").join(key.as_str())
    }

    pub fn image(&self, key: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{key}.json"))
    }

    pub fn context(&self, scope: &str, service: &str) -> PathBuf {
        self.run(scope).join("contexts").join(file_name(service))
    }

    pub fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    pub fn bill(&self, key: &Digest) -> PathBuf {
        self.root.join("bills").join(format!("{key}.json"))
    }

    pub fn throwaway(&self) -> PathBuf {
        self.root.join("throwaway")
    }

    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }
}

/// The log inside a step's folder.
pub(crate) fn log(step: &Path) -> PathBuf {
    step.join("log")
}

/// The manifest of inputs inside a step's folder.
pub(crate) fn manifest(step: &Path) -> PathBuf {
    step.join("manifest.json")
}

/// The result inside a step's folder.
pub(crate) fn result(step: &Path) -> PathBuf {
    step.join("result.json")
}

/// How often a step was stopped, inside its folder.
pub(crate) fn canceled(step: &Path) -> PathBuf {
    step.join("canceled.json")
}

/// A text as one safe file name and job name: what had to be replaced is told apart by a digest.
pub(crate) fn file_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '-' };
    let name: String = text.chars().map(safe).collect();
    if name == text {
        return name;
    }
    format!("{name}-{}", &Digest::of(text).as_str()[..8])
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn two_step_names_never_share_a_folder_and_none_leaves_it() {
        assert_eq!(file_name("pytest"), "pytest");
        assert_ne!(file_name("unit tests"), file_name("unit:tests"));
        assert!(!file_name("..").starts_with('.'));
    }
}
