//! Finds the tool for something among the programs that the steps' user can run.

use std::path::PathBuf;

use domain::scan::{Choice, Tool};

use super::super::tools::{identity, resolve};
use super::bench::Halt;

/// A kind of tool that is looked for.
pub(super) struct Wanted {
    /// Its key below `build.scan`.
    pub key: &'static str,
    /// In the order in which `auto` takes them.
    tools: &'static [Tool],
}

impl Wanted {
    pub const SBOM: Self = Self { key: "sbom", tools: &Tool::SBOM };
    pub const VULNERABILITIES: Self =
        Self { key: "vulnerabilities", tools: &Tool::VULNERABILITIES };
    pub const DOCKERFILES: Self = Self { key: "dockerfiles", tools: &Tool::DOCKERFILES };
    pub const SECRETS: Self = Self { key: "secrets", tools: &Tool::SECRETS };

    /// The program for it in `path` (as in `$PATH`); `None` if nobody is to look.
    pub fn find(&self, choice: Choice, path: &str) -> Result<Option<Program>, Halt> {
        let tools = match &choice {
            Choice::Off => return Ok(None),
            Choice::Auto => self.tools,
            Choice::Only(tool) => std::slice::from_ref(tool),
        };
        let found = tools.iter().find_map(|tool| {
            let path = resolve(tool.program(), path)?;
            Some(Program { tool: *tool, identity: identity(&path).unwrap_or_default(), path })
        });
        found.map(Some).ok_or_else(|| self.missing(tools))
    }

    fn missing(&self, tools: &[Tool]) -> Halt {
        let names: Vec<&str> = tools.iter().map(|tool| tool.program()).collect();
        let (names, of_them) = match names.as_slice() {
            [one] => (format!("{one} is not installed"), "it"),
            many => (format!("none of {} is installed", many.join(", ")), "one of them"),
        };
        let key = self.key;
        Halt::unavailable(format!(
            "{names}; install {of_them} where every user can run it, or say in writing that nobody looks: \
             `build.scan.{key}: off`"
        ))
    }
}

/// A tool of this machine.
#[derive(Debug)]
pub(super) struct Program {
    pub tool: Tool,
    pub path: PathBuf,
    /// Changes with its version.
    pub identity: String,
}
