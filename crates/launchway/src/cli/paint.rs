//! How things look in the terminal: colour where it is wanted, times and durations for people.

use std::io::IsTerminal;
use std::time::Duration;

use domain::{CommitId, Timestamp};
use owo_colors::OwoColorize;

/// Colours standard output, if that is a terminal and nobody said no.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// For standard output.
    pub fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    /// For standard error.
    pub fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }

    /// No colour at all.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self(false)
    }

    pub fn bold(self, text: &str) -> String {
        if self.0 { text.bold().to_string() } else { text.into() }
    }

    pub fn good(self, text: &str) -> String {
        if self.0 { text.green().to_string() } else { text.into() }
    }

    pub fn bad(self, text: &str) -> String {
        if self.0 { text.red().to_string() } else { text.into() }
    }

    pub fn dim(self, text: &str) -> String {
        if self.0 { text.dimmed().to_string() } else { text.into() }
    }
}

/// `0.4 s`, `12 s`, `5 min`, `3 h`, `2 d`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

/// The same for what may be over within a blink: `12 ms`.
pub fn brief(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => span(duration),
    }
}

/// `5 min ago`.
pub fn ago(now: Timestamp, then: Timestamp) -> String {
    match now.since(then) {
        since if since.as_secs() == 0 => "just now".into(),
        since => format!("{} ago", span(since)),
    }
}

/// How long something still lasts: `for 5 min more`.
pub fn left(now: Timestamp, until: Timestamp) -> String {
    format!("for {} more", span(until.since(now)))
}

/// The commit in short, or a dash.
pub fn commit(commit: Option<&CommitId>) -> &str {
    commit.map_or("-", CommitId::short)
}

/// Who asked for something: `by ada`, or `(branch main)` where a new head of it did.
pub fn by(who: &str) -> String {
    match who.starts_with('(') {
        true => who.into(),
        false => format!("by {who}"),
    }
}

/// Longer than this is no line of a table.
const LINE: usize = 240;

/// What fits into one line of a table: the first line that says something, cut where it is long. `--json` has all.
pub fn line(text: &str) -> String {
    let telling = |line: &&str| line.contains(char::is_alphanumeric);
    let mut lines = text.lines().map(str::trim).filter(telling);
    let first = lines.next().unwrap_or_default();
    let shown: String = first.chars().take(LINE).collect();
    match lines.next().is_some() || shown.len() < first.len() {
        true => format!("{shown} ..."),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE, line};

    #[test]
    fn what_a_health_check_said_over_many_lines_is_one_line_of_a_table() {
        assert_eq!(line("exit status 1: no tea"), "exit status 1: no tea");
        let said =
            "\n---\n  exit status 1: Traceback (most recent call last):\n  File \"a.py\"\nboom";
        assert_eq!(line(said), "exit status 1: Traceback (most recent call last): ...");
        assert_eq!(line(&"ä".repeat(LINE + 1)), format!("{} ...", "ä".repeat(LINE)));
        assert_eq!(line("\n"), "");
    }
}
