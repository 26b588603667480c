//! Where in a Dockerfile a build failed. Builders name the step by what it says, not by its line.

/// An instruction of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// From 1.
    pub line: usize,
    /// In one line, as the Dockerfile has it.
    pub instruction: String,
}

/// Of an instruction that is said.
const LONGEST: usize = 120;

/// The instruction that `step` names, as the builder calls it: `[build 2/3] RUN make`, `Step 3/5 : RUN make`. A
/// Dockerfile that cannot be read has its line in what the builder `said`.
pub(super) fn of(dockerfile: &str, step: Option<&str>, said: &str) -> Option<At> {
    let all = instructions(dockerfile);
    if said.contains("parse error") {
        let line = after(said, "line ")?.parse().ok()?;
        return all.iter().rev().find(|one| one.line <= line).map(Instruction::at);
    }
    let step = step?;
    let found = match step.strip_prefix("Step ") {
        Some(step) => classic(&all, step),
        None => modern(&all, step),
    };
    found.map(Instruction::at)
}

/// `3/5 : RUN make` counts all instructions.
fn classic<'a>(all: &'a [Instruction], step: &str) -> Option<&'a Instruction> {
    let (number, said) = step.split_once(" : ")?;
    let number: usize = number.split('/').next()?.parse().ok()?;
    all.get(number.checked_sub(1)?).filter(|one| one.fits(said))
}

/// `[build 2/3] RUN make` counts what makes a layer, in each stage.
fn modern<'a>(all: &'a [Instruction], step: &str) -> Option<&'a Instruction> {
    if let Some(image) = step.strip_prefix("[internal] load metadata for ") {
        return all.iter().find(|one| one.begins_with(image));
    }
    let (place, said) = step.strip_prefix('[')?.split_once("] ")?;
    let (stage, number) = place.rsplit_once(' ').unwrap_or(("", place));
    let number: usize = number.split('/').next()?.parse().ok()?;
    let fit = || all.iter().filter(|one| one.fits(said));
    let here = |one: &&Instruction| stage.is_empty() || one.stage.iter().any(|name| name == stage);
    let exact = fit().find(|one| here(one) && one.layer == number);
    let mut alike = fit().filter(here);
    exact.or_else(|| alike.next().filter(|_| alike.next().is_none()))
}

struct Instruction {
    line: usize,
    text: String,
    /// What its stage is called: `stage-0`, and the name after `AS`.
    stage: Vec<String>,
    /// Which of the layers of its stage it makes, from 1.
    layer: usize,
}

impl Instruction {
    fn at(&self) -> At {
        let words: Vec<&str> = self.text.split_whitespace().collect();
        let mut instruction = words.join(" ");
        if let Some((end, _)) = instruction.char_indices().nth(LONGEST) {
            instruction.truncate(end);
            instruction.push_str("...");
        }
        At { line: self.line, instruction }
    }

    /// Whether a builder may say this of it: with other spaces, without quotes, and with variables filled in.
    fn fits(&self, said: &str) -> bool {
        let said = bare(said);
        let mut open = said.as_str();
        for (number, part) in fixed(&self.text).iter().map(|part| bare(part)).enumerate() {
            let found = match number {
                0 => open.starts_with(&part).then_some(0),
                _ => open.find(&part),
            };
            let Some(start) = found else { return false };
            open = &open[start + part.len()..];
        }
        open.is_empty() || self.text.contains('$') || self.text.contains("<<")
    }

    fn begins_with(&self, image: &str) -> bool {
        let mut words = self.text.split_whitespace();
        let from = words.next().is_some_and(|word| word.eq_ignore_ascii_case("from"));
        let mut names = words.filter(|word| !word.starts_with("--"));
        let Some(name) = names.next().filter(|_| from) else { return false };
        let short = image.trim_start_matches("docker.io/").trim_start_matches("library/");
        [image, short]
            .iter()
            .any(|image| *image == name || image.strip_suffix(":latest") == Some(name))
    }
}

fn bare(text: &str) -> String {
    let plain = |c: &char| !c.is_whitespace() && !"\"'\\".contains(*c);
    text.chars().filter(plain).map(|c| c.to_ascii_lowercase()).collect()
}

/// The parts of an instruction between its variables. What a heredoc has is not repeated by builders.
fn fixed(text: &str) -> Vec<&str> {
    let heredoc = text.find("<<");
    let end = heredoc.and_then(|at| Some(at + text[at..].find(char::is_whitespace)?));
    let text = &text[..end.unwrap_or(text.len())];
    let mut parts = text.split('$');
    let mut all: Vec<&str> = parts.next().into_iter().collect();
    all.extend(parts.map(|part| match part.strip_prefix('{') {
        Some(braced) => braced.split_once('}').map_or("", |(_, rest)| rest),
        None => part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_'),
    }));
    all
}

/// All of them, each with the line that it begins in.
fn instructions(dockerfile: &str) -> Vec<Instruction> {
    let escape = escape(dockerfile);
    let mut all: Vec<Instruction> = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut heredocs: Vec<String> = Vec::new();
    for (number, line) in dockerfile.lines().enumerate() {
        if let Some(end) = heredocs.first() {
            if line.trim_start_matches('\t') == end {
                heredocs.remove(0);
            }
            continue;
        }
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (begun, before) = open.take().unwrap_or((number + 1, String::new()));
        match text.strip_suffix(escape) {
            Some(text) => open = Some((begun, format!("{before}{text} "))),
            None => {
                let text = before + text;
                heredocs = ends_of_heredocs(&text);
                push(&mut all, begun, text);
            }
        }
    }
    if let Some((line, text)) = open {
        push(&mut all, line, text);
    }
    all
}

fn push(all: &mut Vec<Instruction>, line: usize, text: String) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let word = words.first().map(|word| word.to_ascii_uppercase()).unwrap_or_default();
    let stages =
        all.iter().filter(|one| one.text.to_ascii_uppercase().starts_with("FROM ")).count();
    let (stage, layer) = match (word.as_str(), all.last()) {
        ("FROM", _) => {
            let name = words.iter().position(|word| word.eq_ignore_ascii_case("as"));
            let name = name.and_then(|at| words.get(at + 1)).map(|name| (*name).to_owned());
            ([Some(format!("stage-{stages}")), name].into_iter().flatten().collect(), 1)
        }
        (_, None) => (Vec::new(), 0),
        ("RUN" | "COPY" | "ADD" | "WORKDIR", Some(before)) => {
            (before.stage.clone(), before.layer + 1)
        }
        (_, Some(before)) => (before.stage.clone(), before.layer),
    };
    all.push(Instruction { line, text, stage, layer });
}

/// `# escape=` before the first instruction.
fn escape(dockerfile: &str) -> char {
    let directives = dockerfile.lines().map_while(|line| line.trim().strip_prefix('#'));
    let pairs = directives.filter_map(|line| line.split_once('='));
    let said = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case("escape"));
    said.filter_map(|(_, value)| value.trim().chars().next()).next().unwrap_or('\\')
}

/// `<<EOF`, `<<-"EOF"`; not the `<<<` of a shell.
fn ends_of_heredocs(text: &str) -> Vec<String> {
    let takes = |word: &str| ["RUN", "COPY", "ADD"].contains(&word.to_ascii_uppercase().as_str());
    if !text.split_whitespace().next().is_some_and(takes) {
        return Vec::new();
    }
    let ends = text.split("<<").skip(1).map(|rest| rest.trim_start_matches('-'));
    let words = ends
        .filter_map(|rest| rest.split(|c: char| c.is_whitespace() || ";&|>)".contains(c)).next());
    let names = words.map(|word| word.trim_matches(['"', '\'']));
    let name = |word: &&str| word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    names.filter(name).map(str::to_owned).collect()
}

fn after<'a>(said: &'a str, words: &str) -> Option<&'a str> {
    let rest = &said[said.find(words)? + words.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|digits| !digits.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERFILE: &str = "# syntax=x\nARG V=1\nFROM tea:$V AS build\n\nRUN make \\\n  # why\n  all\nRUN <<EOF\nRUN made\nEOF\n\
                              FROM tea\nENV A=b\nRUN make all\nCOPY --from=build \"/a\" /$A\n";

    fn line(step: &str) -> Option<usize> {
        of(DOCKERFILE, Some(step), "").map(|at| at.line)
    }

    #[test]
    fn the_step_that_a_builder_names_has_a_line() {
        assert_eq!(line("[build 2/3] RUN make   all"), Some(5));
        assert_eq!(line("[build 3/3] RUN <<EOF (RUN made)"), Some(8));
        assert_eq!(line("[stage-1 2/3] RUN make all"), Some(13), "the same words in another stage");
        assert_eq!(line("[stage-1 3/3] COPY --from=build /a /b"), Some(14), "a variable filled in");
        assert_eq!(line("[internal] load metadata for docker.io/library/tea:latest"), Some(11));
        assert_eq!(line("Step 7/8 : RUN make all"), Some(13));
        assert_eq!(line("Step 4/8 : RUN <<EOF"), Some(8));
    }

    #[test]
    fn what_it_does_not_have_has_no_line() {
        for step in
            ["[2/3] RUN other", "[internal] load build context", "Step 9/9 : RUN x", "", "["]
        {
            assert_eq!(line(step), None, "{step}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_by_the_builder() {
        for said in
            ["dockerfile parse error line 2: unknown", "dockerfile parse error on line 2: x"]
        {
            let at = of("FROM a\nRNU x\n", None, said).unwrap();
            assert_eq!((at.line, at.instruction.as_str()), (2, "RNU x"));
        }
    }

    #[test]
    fn another_character_may_escape_the_end_of_a_line() {
        let at = of("# escape=`\nFROM a\nRUN a `\n  b\nRUN c\n", Some("[3/3] RUN c"), "").unwrap();
        assert_eq!(at.line, 5);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[A-Z$<{}\\\\\" \n]{0,200}", step in "[\\[\\]A-Z0-9/ :]{0,40}") {
            let _ = of(&text, Some(&step), "parse error");
            let _ = of(&text, Some(&step), "");
        }
    }
}
