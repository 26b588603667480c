//! What the scan gate looks for in containers: in the demo, what this machine has tools for, and the rest off in writing.

use std::env;

use domain::scan::Tool;
use engine::Unprivileged;
use engine::process::reachable_path;

/// What the example's file says of its gate, below which the rest is put.
pub const ANCHOR: &str = "    fail_on: high\n";

/// The keys of `build.scan` for this machine, a line each.
pub fn in_writing() -> String {
    let path = path_of_steps();
    let has = |tool: Tool| {
        path.split(':').any(|folder| std::path::Path::new(folder).join(tool.program()).is_file())
    };
    let line = |key: &str, tool: Tool| match has(tool) {
        true => format!("    {key}: {}\n", tool.program()),
        false => {
            let missing = tool.program();
            format!(
                "    {key}: off # {missing} is not on this machine; dev/scanners system puts it there\n"
            )
        }
    };
    [
        "    vulnerabilities: off # the demo brings no database of known vulnerabilities\n"
            .to_owned(),
        line("sbom", Tool::Syft),
        line("dockerfiles", Tool::Hadolint),
        // The other one takes the passwords of the shop's tests for secrets.
        line("secrets", Tool::Gitleaks),
    ]
    .concat()
}

/// Where programs of steps are found: if root starts the server, not in root's home.
fn path_of_steps() -> String {
    let path = env::var("PATH").unwrap_or_default();
    match Unprivileged::detect() {
        Ok(Some(user)) => reachable_path(&path, user.uid, user.gid),
        _ => path,
    }
}
