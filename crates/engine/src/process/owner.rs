//! Whose port it is: an answer from a stranger must not make a replica ready.

use std::collections::HashSet;
use std::fs;

use crate::proc;

/// Whether the listening socket on `port` belongs to `root` or one of its descendants.
/// Where the kernel does not tell, the benefit of the doubt.
pub(super) fn listens(root: u32, port: u16) -> bool {
    let sockets = listening(port);
    if sockets.is_empty() {
        return true;
    }
    let family = proc::descendants(root, &proc::all());
    let mut unreadable = false;
    for pid in family {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            unreadable = true;
            continue;
        };
        let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if targets.into_iter().any(|target| sockets.contains(target.to_string_lossy().as_ref())) {
            return true;
        }
    }
    unreadable
}

/// The sockets that listen on `port`, as `/proc/PID/fd` names them.
fn listening(port: u16) -> HashSet<String> {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let texts: Vec<String> = tables.iter().flat_map(fs::read_to_string).collect();
    texts.iter().flat_map(|text| text.lines()).filter_map(|line| socket_of(line, port)).collect()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`
fn socket_of(line: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let local = fields.get(1)?.rsplit(':').next()?;
    let ours = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == LISTEN;
    ours.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"0")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_socket_is_found_and_belongs_to_its_process_only() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening(port).len(), 1);
        // Nothing below this process listens there; the process itself does.
        assert!(!listens(std::process::id(), port));
    }
}
