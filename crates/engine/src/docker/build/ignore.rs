//! `.dockerignore`: which files of a context are not sent, by the rules of Docker itself.
//!
//! Docker's rules are neither gitignore's nor those of a glob library: every pattern is anchored at the root, `**`
//! may stand anywhere, a pattern that names a folder takes what is below it, and the last pattern that matches
//! decides (<https://docs.docker.com/build/concepts/context/#dockerignore-files>).

/// The patterns of one file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// `!`: what matches is sent after all.
    back: bool,
    glob: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Char(char),
    /// `?`: one character of a name.
    One,
    /// `*`: characters of a name.
    Some,
    /// `**`: characters of any names.
    All,
    /// `**/`: any folders, or none.
    Folders,
    /// `[a-z]`.
    Class {
        not: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads the text of a `.dockerignore`. A pattern that cannot be read is an error for Docker, and here.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        let patterns: Result<Vec<_>, _> =
            lines.filter(|line| !line.is_empty()).map(Pattern::parse).collect();
        Ok(Self { patterns: patterns?.into_iter().flatten().collect() })
    }

    /// Whether the file or folder at `path` (from the context's root, parted by `/`) is left out.
    pub fn leaves_out(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let ends = path.iter().enumerate().filter(|(_, c)| **c == '/').map(|(at, _)| at);
        let mut above: Vec<&[char]> = ends.map(|at| &path[..at]).collect();
        above.push(&path);
        self.patterns.iter().fold(false, |out, pattern| {
            let decides = out == pattern.back && above.iter().any(|p| matches(&pattern.glob, p));
            if decides { !out } else { out }
        })
    }

    /// Whether everything below the folder at `path` is left out: then nobody has to look there.
    pub fn leaves_out_all_of(&self, path: &str) -> bool {
        self.leaves_out(path) && !self.patterns.iter().any(|pattern| pattern.back)
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Option<Self>, String> {
        let (back, rest) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let clean = clean(rest);
        if clean.is_empty() || clean == "." {
            return if back && rest.is_empty() {
                Err(format!("`{line}` names nothing"))
            } else {
                Ok(None)
            };
        }
        let glob = glob(&clean).ok_or_else(|| format!("`{line}` is no pattern"))?;
        Ok(Some(Self { back, glob }))
    }
}

/// Without empty parts, `.` and `..`, as Go's `filepath.Clean` makes it; a leading `/` is the root of the context.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if text.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn glob(text: &str) -> Option<Vec<Part>> {
    let chars: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        at += 1;
        parts.push(match c {
            '*' if chars.get(at) == Some(&'*') => {
                while chars.get(at) == Some(&'*') {
                    at += 1;
                }
                if chars.get(at) == Some(&'/') {
                    at += 1;
                    Part::Folders
                } else {
                    Part::All
                }
            }
            '*' => Part::Some,
            '?' => Part::One,
            '[' => {
                let (class, end) = class(&chars, at)?;
                at = end;
                class
            }
            '\\' => {
                at += 1;
                Part::Char(*chars.get(at - 1)?)
            }
            c => Part::Char(c),
        });
    }
    Some(parts)
}

/// The class that begins after `[`, and where the text goes on.
fn class(chars: &[char], mut at: usize) -> Option<(Part, usize)> {
    let not = chars.get(at) == Some(&'^');
    at += usize::from(not);
    let mut ranges = Vec::new();
    loop {
        let low = match chars.get(at)? {
            ']' if !ranges.is_empty() => return Some((Part::Class { not, ranges }, at + 1)),
            '\\' => {
                at += 1;
                *chars.get(at)?
            }
            c => *c,
        };
        at += 1;
        let to = chars.get(at) == Some(&'-') && chars.get(at + 1).is_some_and(|c| *c != ']');
        let high = if to { *chars.get(at + 1)? } else { low };
        at += if to { 2 } else { 0 };
        ranges.push((low, high));
    }
}

/// Goes through the parts once, with all the places of the path that they may have reached: no pattern is slow.
fn matches(glob: &[Part], path: &[char]) -> bool {
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for part in glob {
        reached = beyond(part, path, &reached);
    }
    reached[path.len()]
}

fn beyond(part: &Part, path: &[char], reached: &[bool]) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    let mut open = false;
    for at in 0..reached.len() {
        open |= reached[at];
        match part {
            Part::Some | Part::All => next[at] = open,
            Part::Folders => next[at] = reached[at] || (open && path[at - 1] == '/'),
            one if at > 0 => next[at] = reached[at - 1] && takes(one, path[at - 1]),
            _ => {}
        }
        // `*` ends with the name.
        open &= !(matches!(part, Part::Some) && path.get(at) == Some(&'/'));
    }
    next
}

/// Whether a part that stands for one character stands for this one.
fn takes(part: &Part, c: char) -> bool {
    match part {
        Part::Char(own) => *own == c,
        Part::One => c != '/',
        Part::Class { not, ranges } => {
            c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not
        }
        Part::Some | Part::All | Part::Folders => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn left_out(text: &str, path: &str) -> bool {
        Ignore::parse(text).unwrap().leaves_out(path)
    }

    #[test]
    fn patterns_mean_what_docker_says_they_mean() {
        // From the table and the examples of Docker's documentation.
        for (text, path, out) in [
            ("# comment", "# comment", false),
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/temp/x", true),
            ("*/temp*", "temp", false),
            ("*/*/temp*", "somedir/subdir/temporary.txt", true),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("/foo/bar", "foo/bar", true),
            ("foo/bar", "x/foo/bar", false),
            ("foo", "foo/deep/below", true),
            ("  foo  ", "foo", true),
            ("./foo/../bar/", "bar/x", true),
            ("node_modules", "web/node_modules/x", false),
            ("**/node_modules", "web/node_modules/x/y", true),
            ("**/node_modules", "node_modules", true),
            ("**", "any/thing", true),
            ("*\n!src", "src/main.rs", false),
            ("*\n!src/*.rs", "src/main.rs", false),
            ("*\n!src/*.rs", "src/main.c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "ab", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*x", "*x", true),
            ("\\*x", "yx", false),
            (".", "anything", false),
            ("docs**", "docs/x/y", true),
        ] {
            assert_eq!(left_out(text, path), out, "{text:?} on {path}");
        }
    }

    #[test]
    fn a_pattern_without_end_or_name_is_refused() {
        for text in ["[a", "!", "x\\"] {
            assert!(Ignore::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_below_a_left_out_folder_is_left_out(
            pattern in "[a-c*?/]{1,8}", folder in "[a-c]{1,3}(/[a-c]{1,2}){0,2}", file in "[a-c]{1,3}",
        ) {
            if left_out(&pattern, &folder) {
                let below = folder + "/" + &file;
                prop_assert!(left_out(&pattern, &below));
            }
        }

        #[test]
        fn the_last_word_decides(path in "[a-c]{1,3}(/[a-c]{1,2}){0,2}", before in "[a-c*/]{1,6}") {
            let back = format!("{before}\n!{path}");
            let (out, sent) = (left_out(&format!("{before}\n{path}"), &path), left_out(&back, &path));
            prop_assert!(out);
            prop_assert!(!sent);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,30}", path in "\\PC{1,20}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                ignore.leaves_out(&path);
            }
        }
    }
}
