//! What of our own environment a step may see: a short list, so that a run does not depend on who started it.

use std::collections::BTreeMap;

use engine::process::reachable_path;

use super::files::RunAs;

/// Variables, by name.
pub(crate) type Variables = BTreeMap<String, String>;

const NAMES: [&str; 8] = [
    "PATH",
    "LANG",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
];
const PREFIXES: [&str; 5] = ["LC_", "PIP_", "npm_config_", "NPM_CONFIG_", "UV_"];

/// What a step gets of `ours`.
pub(crate) fn allowed(ours: &Variables, run_as: Option<RunAs>) -> Variables {
    let pass = ours.iter().filter(|(name, _)| passes(name));
    let mut seen: Variables = pass.map(|(name, value)| (name.clone(), value.clone())).collect();
    let path = seen.get("PATH").map_or("/usr/local/bin:/usr/bin:/bin", String::as_str);
    let path = match run_as {
        Some(user) => reachable_path(path, user.uid, user.gid),
        None => path.to_owned(),
    };
    seen.insert("PATH".into(), path);
    seen.insert("CI".into(), "true".into());
    seen
}

/// Those of a step's variables that may change its result: not where things lie or how the network is reached.
pub(crate) fn decisive(seen: &Variables) -> Variables {
    let decides = |name: &str| {
        ["LANG", "TZ", "CI"].contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
    };
    seen.iter().filter(|(name, _)| decides(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

fn passes(name: &str) -> bool {
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || name.to_ascii_lowercase().ends_with("_proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_listed_variables_pass() {
        let ours = [
            "PATH",
            "LC_ALL",
            "https_proxy",
            "NO_PROXY",
            "PIP_INDEX_URL",
            "AWS_SECRET",
            "HOME",
            "CI_TOKEN",
        ];
        let ours = ours.into_iter().map(|name| (name.to_owned(), "/bin".to_owned())).collect();
        let seen: Vec<String> = allowed(&ours, None).into_keys().collect();
        assert_eq!(seen, ["CI", "LC_ALL", "NO_PROXY", "PATH", "PIP_INDEX_URL", "https_proxy"]);
    }

    #[test]
    fn a_proxy_does_not_decide_about_a_result_but_a_package_index_does() {
        let seen = ["https_proxy", "PATH", "PIP_INDEX_URL"].map(|n| (n.to_owned(), String::new()));
        assert_eq!(decisive(&seen.into()).into_keys().collect::<Vec<_>>(), ["PIP_INDEX_URL"]);
    }
}
