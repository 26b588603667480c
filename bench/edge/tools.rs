//! Closed-loop load by Debian's wrk and, with TLS and keep-alive, h2load: each client asks again when it was answered.
//!
//! They start, warm up, and while they run a window is measured from outside: the backend's count of requests and the
//! proxy's processor time, so that opening connections does not count and no tool's arithmetic has to be believed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::scenario::{Connection, Protocol, Scenario};
use crate::peers::{Backend, Failed, HOST, Outcome, Usage, failing};

/// How much of the tool's run is measured.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Whole seconds, as wrk wants them.
    pub run: u64,
    pub warm: Duration,
    pub window: Duration,
}

impl Times {
    /// Enough time before the window for connections that take `opening` to open.
    fn after(self, opening: Duration) -> Self {
        let more = opening.as_secs() + 1;
        Self { run: self.run + more, warm: self.warm + Duration::from_secs(more), ..self }
    }
}

/// What was seen from outside.
pub struct Seen {
    pub requests: u64,
    pub lasted: Duration,
    pub cpu: Duration,
    /// Bytes, at the end of the window.
    pub memory: u64,
    /// What the tool complained about.
    pub errors: u64,
    /// How long it took to open the slowest connection, as far as the tool says.
    pub opening: Duration,
}

const TRIES: usize = 3;
/// How long after its time a tool may still run.
const LATE: Duration = Duration::from_secs(5);

/// As [`once`], but again with more time when connections were still being opened in the window; `times` keep it.
pub async fn run(
    scenario: Scenario,
    address: SocketAddr,
    times: &mut Times,
    backend: &Backend,
    meter: impl Fn() -> Usage,
) -> Outcome<Seen> {
    for _ in 0..TRIES {
        let seen = once(scenario, address, None, *times, backend, &meter).await?;
        if seen.opening < times.warm {
            return Ok(seen);
        }
        *times = times.after(seen.opening);
    }
    let clients = scenario.clients;
    Err(Failed(format!("{clients} connections were not open before the window, in {TRIES} tries")))
}

/// The load of `scenario` on `address`; `meter` reads what the proxy used. `script` is one for wrk.
pub async fn once(
    scenario: Scenario,
    address: SocketAddr,
    script: Option<&std::path::Path>,
    times: Times,
    backend: &Backend,
    meter: impl Fn() -> Usage,
) -> Outcome<Seen> {
    let mut command = match (scenario.protocol, scenario.connection) {
        (Protocol::TlsHttp2, Connection::New) => {
            return Err(Failed("h2load cannot open a connection per request".into()));
        }
        (Protocol::TlsHttp1 | Protocol::TlsHttp2, Connection::KeepAlive) => {
            h2load(scenario, address, times)
        }
        _ => wrk(scenario, address, script, times),
    };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let tool =
        command.spawn().map_err(failing("starting wrk or h2load; run `dev/setup --bench`"))?;
    let began = Instant::now();
    tokio::time::sleep(times.warm).await;
    let (at, first, count) = (Instant::now(), meter(), backend.requests().await?);
    tokio::time::sleep(times.window).await;
    // The same order at both ends.
    let (lasted, last, now) = (at.elapsed(), meter(), backend.requests().await?);
    let limit = (Duration::from_secs(times.run) + LATE).saturating_sub(began.elapsed());
    // The count counts itself.
    let requests = now.saturating_sub(count + 1);
    let cpu = last.cpu.saturating_sub(first.cpu);
    let Ok(output) = tokio::time::timeout(limit, tool.wait_with_output()).await else {
        // h2load never ends when its time was over before all connections were open.
        let opening = Duration::from_secs(times.run);
        return Ok(Seen { requests, lasted, cpu, memory: last.memory, errors: 0, opening });
    };
    let output = output.map_err(failing("waiting for wrk or h2load"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failed(format!("wrk or h2load failed: {why}{text}")));
    }
    Ok(Seen {
        requests,
        lasted,
        cpu,
        memory: last.memory,
        errors: errors(&text),
        opening: opening(&text),
    })
}

fn wrk(
    scenario: Scenario,
    address: SocketAddr,
    script: Option<&std::path::Path>,
    times: Times,
) -> Command {
    let mut command = Command::new("wrk");
    command.args(["--threads=1", "--timeout=10s"]);
    command.arg(format!("--connections={}", scenario.clients));
    command.arg(format!("--duration={}s", times.run));
    if scenario.connection == Connection::New {
        command.arg("--header=Connection: close");
    }
    if let Some(script) = script {
        command.arg("--script").arg(script);
    }
    let scheme = if scenario.tls() { "https" } else { "http" };
    command.arg(format!("{scheme}://{HOST}:{}{}", address.port(), scenario.path()));
    command
}

/// With TLS a thousand connections take a while to open; h2load says how long.
/// One stream at a time in each connection, so that clients are the same as with HTTP/1.1.
fn h2load(scenario: Scenario, address: SocketAddr, times: Times) -> Command {
    let mut command = Command::new("h2load");
    command.args(["--threads=1", "--max-concurrent-streams=1"]);
    if scenario.protocol == Protocol::TlsHttp1 {
        command.arg("--h1");
    }
    command.arg(format!("--clients={}", scenario.clients));
    command.arg(format!("--duration={}s", times.run));
    command.arg(format!("https://{HOST}:{}{}", address.port(), scenario.path()));
    command
}

/// h2load: `time for connect:  1.03ms  512.00ms ...`, the second is the longest.
fn opening(text: &str) -> Duration {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("time for connect:"));
    let longest = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0s");
    let (number, scale) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, scale)| Some((longest.strip_suffix(unit)?, scale)))
        .unwrap_or(("0", 1.0));
    Duration::from_secs_f64(number.parse::<f64>().unwrap_or(0.0) * scale)
}

/// wrk: `Socket errors: connect 0, read 0, ...` and `Non-2xx or 3xx responses: 3`.
/// h2load: `requests: ..., 2 failed, 1 errored, 0 timeout` and `status codes: 9 2xx, 0 3xx, 4 4xx, 1 5xx`.
fn errors(text: &str) -> u64 {
    text.lines().map(str::trim).map(errors_of_line).sum()
}

fn errors_of_line(line: &str) -> u64 {
    let number = |word: &str| word.trim_matches(',').parse::<u64>().unwrap_or(0);
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = |names: &[&str]| -> u64 {
        let pairs = words.windows(2);
        pairs
            .filter(|pair| names.contains(&pair[1].trim_matches(',')))
            .map(|pair| number(pair[0]))
            .sum()
    };
    match words.first() {
        Some(&"Socket") => words.iter().map(|word| number(word)).sum(),
        Some(&"Non-2xx") => words.last().map_or(0, |word| number(word)),
        Some(&"requests:") => before(&["errored", "timeout"]),
        Some(&"status") => before(&["4xx", "5xx"]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_connection_is_read_from_what_h2load_says() {
        let told =
            "time for request:  1us  2us\ntime for connect:     1.03ms    512.00ms    3.00ms\n";
        assert_eq!(opening(told), Duration::from_millis(512));
        assert_eq!(opening("time for connect:  9us  1.50s"), Duration::from_millis(1500));
        assert_eq!(opening("nothing"), Duration::ZERO);
    }

    #[test]
    fn what_the_tools_complain_about_is_counted() {
        let wrk = "  10 requests in 1.0s\n  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 4\n";
        assert_eq!(errors(wrk), 10);
        let h2load = "requests: 9 total, 9 started, 9 done, 4 succeeded, 5 failed, 2 errored, 1 timeout\nstatus codes: 4 2xx, 0 3xx, 2 4xx, 1 5xx\n";
        assert_eq!(errors(h2load), 6);
    }
}
