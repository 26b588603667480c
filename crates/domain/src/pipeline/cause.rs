//! The likeliest cause of a failed command or build, from how it ended and what it said last.

use crate::slot::Exit;

/// One sentence for people.
pub fn likeliest(exit: Exit, tail: &[String]) -> String {
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
            None => format!("it said nothing and {}", exit.predicate()),
        },
    }
}

/// Why an image was not built, for people: from what the Docker Engine `said`, which comes last, and the end of the log.
pub fn of_image(said: &str, dockerfile: &str, tail: &[String]) -> String {
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&["no space left on device", "disk quota exceeded"])
        || tail.iter().rev().take(20).any(|line| line.contains("No space left on device"))
    {
        return format!(
            "the disk of the Docker Engine is full; make room (`docker system df` shows what takes it, \
             `docker builder prune` frees the build cache): {said}"
        );
    }
    if let Some((command, code)) = failed_run(said) {
        // Lines of the builder itself, and its own word that the step failed, say no more than that.
        let theirs = |line: &&String| !line.contains("ERROR: ") && !line.contains(" DONE ");
        let own: Vec<String> =
            tail.iter().filter(theirs).map(|line| step_said(line).to_owned()).collect();
        return format!(
            "`RUN {command}` of {dockerfile} failed: {}",
            likeliest(Exit::Code(code), &own)
        );
    }
    if any(&[
        "pull access denied",
        "authorization failed",
        "unauthorized",
        "no basic auth",
        "insufficient_scope",
    ]) {
        return format!(
            "an image that {dockerfile} begins with cannot be pulled: there is none of this name, or `docker login` is \
             needed: {said}"
        );
    }
    if any(&[
        "manifest unknown",
        "failed to do request",
        "no such host",
        "lookup ",
        "connection refused",
        "i/o timeout",
        "failed to resolve source",
    ]) {
        return format!(
            "an image that {dockerfile} begins with cannot be pulled; look at its name, and whether the Docker Engine \
             reaches its registry: {said}"
        );
    }
    if any(&[
        "failed to compute cache key",
        "failed to calculate checksum",
        "COPY failed",
        "ADD failed",
    ]) {
        return format!(
            "{dockerfile} copies a file that the build context does not have; is it committed, and not left out by \
             .dockerignore? {said}"
        );
    }
    if any(&[
        "dockerfile parse error",
        "Dockerfile parse error",
        "unknown instruction",
        "failed to create LLB definition",
    ]) {
        return format!("{dockerfile} cannot be read: {said}");
    }
    format!("the Docker Engine could not build {dockerfile}: {said}")
}

/// The command of `RUN` that ended with a status, in the words of both builders.
fn failed_run(said: &str) -> Option<(&str, i32)> {
    // ... process "/bin/sh -c COMMAND" did not complete successfully: exit code: 1
    // executor failed running [/bin/sh -c COMMAND]: exit code: 1
    // The command '/bin/sh -c COMMAND' returned a non-zero code: 1
    let (_, code) = said.rsplit_once("code: ")?;
    let digits = code.find(|c: char| !c.is_ascii_digit()).unwrap_or(code.len());
    let code = code[..digits].parse().ok()?;
    let (_, rest) = said.split_once("/bin/sh -c ")?;
    let end = ["\" did not complete", "]: exit code", "]: runc did not", "' returned a non-zero"]
        .iter()
        .find_map(|end| rest.find(end))?;
    Some((&rest[..end], code))
}

/// Without `#7 ` and the time before what a step said.
fn step_said(line: &str) -> &str {
    let rest = line.strip_prefix('#').and_then(|line| line.split_once(' '));
    rest.filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()))
        .map_or(line, |(_, rest)| rest)
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
pub fn telling_line(tail: &[String]) -> Option<&str> {
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

    fn built(said: &str, tail: &[&str]) -> String {
        let tail: Vec<String> = tail.iter().map(|&line| line.to_owned()).collect();
        of_image(said, "Dockerfile", &tail)
    }

    #[test]
    fn a_failing_run_is_named_with_what_it_said() {
        for said in [
            "executor failed running [/bin/sh -c npm run build]: exit code: 1",
            "process \"/bin/sh -c npm run build\" did not complete successfully: exit code: 1",
            "The command '/bin/sh -c npm run build' returned a non-zero code: 1",
        ] {
            let tail =
                ["#7 [3/3] RUN npm run build", "#7 Error: no input", "#7 ERROR: executor failed"];
            let cause = built(said, &tail);
            let wanted =
                "`RUN npm run build` of Dockerfile failed: Error: no input (exit status 1)";
            assert_eq!(cause, wanted);
        }
    }

    #[test]
    fn what_stands_in_the_way_of_a_build_comes_first() {
        for (said, begins) in [
            ("write /x: no space left on device", "the disk of the Docker Engine is full"),
            (
                "pull access denied for x, repository does not exist",
                "an image that Dockerfile begins with cannot",
            ),
            (
                "failed to do request: Head \"https://r/v2\": no such host",
                "an image that Dockerfile begins with cannot",
            ),
            ("failed to compute cache key: \"/b\" not found", "Dockerfile copies a file"),
            (
                "dockerfile parse error line 3: unknown instruction: RNU",
                "Dockerfile cannot be read",
            ),
        ] {
            let cause = built(said, &[]);
            assert!(cause.starts_with(begins) && cause.ends_with(said), "{cause}");
        }
        let run = "executor failed running [/bin/sh -c cp a b]: exit code: 1";
        assert!(
            built(run, &["#7 cp: error writing 'b': No space left on device"])
                .starts_with("the disk")
        );
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
