//! The likeliest cause of a failed command, from how it ended and what it said last.

use domain::slot::Exit;

/// One sentence for people.
pub(crate) fn likeliest(exit: Exit, tail: &[String]) -> String {
    if let Some(program) = tail.iter().rev().find_map(|line| not_found(line))
        && exit == Exit::Code(127)
    {
        return format!("`{program}` was not found; install it where every user can run it");
    }
    match exit {
        Exit::Code(126) => with_line("the command cannot be executed", tail),
        Exit::Code(127) => with_line("a program of the command was not found", tail),
        Exit::Code(137) | Exit::Signal(9) => {
            with_line("it was killed (SIGKILL), most likely because memory ran out", tail)
        }
        exit => match telling_line(tail) {
            Some(line) => format!("{line} ({exit})"),
            None => format!("it said nothing and ended with {exit}"),
        },
    }
}

/// `sh: 1: ruff: not found` and `bash: line 1: ruff: command not found` name the program.
fn not_found(line: &str) -> Option<&str> {
    let rest = line.trim().strip_suffix("not found")?.trim_end();
    let rest = rest.strip_suffix("command").unwrap_or(rest).trim_end().strip_suffix(':')?;
    rest.rsplit(": ").next().filter(|program| !program.is_empty())
}

fn with_line(what: &str, tail: &[String]) -> String {
    match telling_line(tail) {
        Some(line) => format!("{what}; it said: {line}"),
        None => what.to_owned(),
    }
}

/// The last line that speaks of an error, or else the last line.
fn telling_line(tail: &[String]) -> Option<&str> {
    let said = || tail.iter().rev().map(|line| line.trim()).filter(|line| !line.is_empty());
    let of_error = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["error", "exception", "fatal", "panicked", "failed", "err!", "denied", "no such file"]
            .iter()
            .any(|word| line.contains(word))
    };
    said().find(of_error).or_else(|| said().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(exit: Exit, lines: &[&str]) -> String {
        likeliest(exit, &lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_missing_program_is_named() {
        for line in ["sh: 1: ruff: not found", "bash: line 1: ruff: command not found"] {
            assert!(cause(Exit::Code(127), &[line]).starts_with("`ruff` was not found"), "{line}");
        }
    }

    #[test]
    fn the_last_line_that_speaks_of_an_error_comes_before_the_last_line() {
        let lines = ["start", "TypeError: x is None", "see the log"];
        assert_eq!(cause(Exit::Code(1), &lines), "TypeError: x is None (exit status 1)");
        assert_eq!(cause(Exit::Code(2), &["bye", ""]), "bye (exit status 2)");
        assert!(cause(Exit::Signal(9), &[]).contains("memory"));
    }
}
