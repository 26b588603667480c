//! Files of variables, as Compose reads `.env` and `env_file`
//! (<https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax>).

use std::collections::BTreeMap;

use super::interpolation::interpolate;
use super::project::EnvFile;

/// What is wrong in a file of variables. It never shows a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct EnvFileError {
    /// From 1.
    pub line: usize,
    pub problem: String,
}

/// Values of variables by name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of a file. `lookup` gives what a value may refer to, and what a name without a value gets: what
/// it does not know is left out. It goes before what the file says further up, as in Compose.
pub fn parse_env_file(
    text: &str,
    raw: bool,
    lookup: Lookup<'_>,
) -> Result<BTreeMap<String, String>, EnvFileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    if raw {
        return Ok(plain_lines(&text, lookup));
    }
    let mut parser = Parser { text: &text, at: 0, found: BTreeMap::new(), lookup };
    while let Some(name) = parser.name()? {
        parser.value(name)?;
    }
    Ok(parser.found)
}

/// What a container gets: `env` (interpolated) over the files, of which later ones go before earlier ones.
pub fn with_env_files(
    files: &[(&EnvFile, String)],
    env: &BTreeMap<String, String>,
    lookup: Lookup<'_>,
) -> Result<BTreeMap<String, String>, (String, EnvFileError)> {
    let mut all = BTreeMap::new();
    for (file, text) in files {
        let known = |name: &str| lookup(name).or_else(|| env.get(name).cloned());
        let read = parse_env_file(text, file.raw, &known);
        all.extend(read.map_err(|error| (file.path.clone(), error))?);
    }
    all.extend(env.clone());
    Ok(all)
}

fn plain_lines(text: &str, lookup: Lookup<'_>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim_start) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((name, value)) => found.insert(name.to_owned(), value.to_owned()),
            None => lookup(line).and_then(|value| found.insert(line.to_owned(), value)),
        };
    }
    found
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    found: BTreeMap<String, String>,
    lookup: Lookup<'t>,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, problem: impl Into<String>) -> EnvFileError {
        let line = self.text[..self.at].matches('\n').count() + 1;
        EnvFileError { line, problem: problem.into() }
    }

    /// The next name, behind blank lines and comments, up to and with its `=`.
    fn name(&mut self) -> Result<Option<Name<'t>>, EnvFileError> {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.rest().starts_with('#') {
                break;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
        if self.rest().is_empty() {
            return Ok(None);
        }
        if let Some(rest) = self.rest().strip_prefix("export")
            && rest.starts_with([' ', '\t'])
        {
            self.at = self.text.len() - rest.trim_start_matches([' ', '\t']).len();
        }
        let line = self.rest().split('\n').next().unwrap_or("");
        let end = line.find(['=', ':']).unwrap_or(line.len());
        let name = line[..end].trim();
        let odd = |c: char| !(c.is_alphanumeric() || "_.-[]".contains(c));
        if name.is_empty() || name.contains(odd) {
            let help = "write `NAME=value`, with letters, digits, `_`, `.` and `-` in the name";
            return Err(
                self.error(format!("this does not begin with the name of a variable: {help}"))
            );
        }
        self.at += end;
        let has_value = end < line.len();
        self.at += usize::from(has_value);
        Ok(Some(Name { text: name, has_value }))
    }

    fn value(&mut self, name: Name<'t>) -> Result<(), EnvFileError> {
        if !name.has_value {
            let value = (self.lookup)(name.text);
            self.found.extend(value.map(|value| (name.text.to_owned(), value)));
            return Ok(());
        }
        let rest = self.rest().trim_start_matches([' ', '\t']);
        self.at = self.text.len() - rest.len();
        let value = match rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(name.text, quote)?,
            _ => self.bare(name.text)?,
        };
        self.found.insert(name.text.to_owned(), value);
        Ok(())
    }

    /// A value without quotes ends with the line or before ` #`.
    fn bare(&mut self, name: &str) -> Result<String, EnvFileError> {
        let line = self.rest().split('\n').next().unwrap_or("");
        let value = line.split(" #").next().unwrap_or(line).trim_end();
        let value = if value.starts_with('#') { "" } else { value };
        let filled = self.fill(name, value);
        self.at += line.len();
        filled
    }

    /// A value in quotes may go over several lines. In single quotes nothing but `\'` means anything.
    fn quoted(&mut self, name: &str, quote: char) -> Result<String, EnvFileError> {
        let inside = &self.rest()[1..];
        let mut text = String::new();
        let mut escaped = false;
        for (at, c) in inside.char_indices() {
            match c {
                _ if escaped => {
                    if c != quote {
                        text.push('\\');
                    }
                    text.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == quote => {
                    let filled =
                        if quote == '"' { self.fill(name, &unescaped(&text)) } else { Ok(text) };
                    self.at += 1 + at + 1;
                    self.at += self.rest().find('\n').unwrap_or(self.rest().len());
                    return filled;
                }
                c => text.push(c),
            }
        }
        Err(self.error(format!("the quote that the value of `{name}` begins with is not closed")))
    }

    fn fill(&self, name: &str, value: &str) -> Result<String, EnvFileError> {
        let known = |other: &str| (self.lookup)(other).or_else(|| self.found.get(other).cloned());
        interpolate(value, &known)
            .map_err(|error| self.error(format!("the value of `{name}`: {}", error.cause())))
    }
}

#[derive(Clone, Copy)]
struct Name<'t> {
    text: &'t str,
    has_value: bool,
}

/// What a backslash means in double quotes; `\$` is a dollar sign, for interpolation `$$`.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('$') => out.push_str("$$"),
            Some(c @ ('"' | '\\')) => out.push(c),
            Some(c) => out.extend(['\\', c]),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, String>, EnvFileError> {
        parse_env_file(text, false, &|name| (name == "SHELL_TEA").then(|| "oolong".to_owned()))
    }

    fn value(text: &str) -> String {
        read(text).expect("it is right")["TEA"].clone()
    }

    #[test]
    fn every_form_of_compose_gets_its_value() {
        for (text, wanted) in [
            ("TEA=sencha", "sencha"),
            ("  TEA = sencha  ", "sencha"),
            ("export TEA=sencha", "sencha"),
            ("TEA: sencha", "sencha"),
            ("TEA=", ""),
            ("TEA=a=b", "a=b"),
            ("TEA=sen#cha # green", "sen#cha"),
            ("TEA='a # b' # c", "a # b"),
            ("TEA='$POT \\n'", "$POT \\n"),
            ("TEA='it\\'s'", "it's"),
            ("TEA=\"a\\tb\"", "a\tb"),
            ("TEA=\"{\\\"hot\\\": 1}\"", "{\"hot\": 1}"),
            ("TEA=\"two\nlines\"", "two\nlines"),
            ("POT=iron\nTEA=${POT}-$POT", "iron-iron"),
            ("TEA=${POT:-clay}", "clay"),
            ("TEA=\"\\$POT\"", "$POT"),
            ("SHELL_TEA=sencha\nTEA=$SHELL_TEA", "oolong"),
            ("# TEA=no\n\n\u{feff}TEA=yes".trim_start_matches('\u{feff}'), "yes"),
        ] {
            let text = text.replace('\u{feff}', "");
            assert_eq!(value(&text), wanted, "{text}");
        }
    }

    #[test]
    fn a_name_alone_is_taken_from_around_or_left_out() {
        let read = read("SHELL_TEA\nCUP\nTEA=x").expect("it is right");
        assert_eq!(read.keys().collect::<Vec<_>>(), ["SHELL_TEA", "TEA"]);
        assert_eq!(read["SHELL_TEA"], "oolong");
    }

    #[test]
    fn raw_lines_are_taken_as_they_are() {
        let read = parse_env_file("TEA='$POT' # hot\n#no\nCUP", true, &|_| None);
        assert_eq!(read.expect("it is right")["TEA"], "'$POT' # hot");
    }

    #[test]
    fn a_mistake_has_its_line_and_never_shows_a_value() {
        for (text, line) in
            [("A=1\nB='secret", 2), ("A B=secret", 1), ("\n\nA=${secret", 3), ("=secret", 1)]
        {
            let error = read(text).expect_err("it is wrong");
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_the_service_says_goes_before_its_files() {
        let file = |path: &str| EnvFile { path: path.into(), required: true, raw: false };
        let (first, second) = (file("a.env"), file("b.env"));
        let env = BTreeMap::from([("CUP".to_owned(), "mine".to_owned())]);
        let files = [(&first, "TEA=a\nCUP=a\nPOT=$CUP".to_owned()), (&second, "TEA=b".to_owned())];
        let all = with_env_files(&files, &env, &|_| None).expect("they are right");
        let all: Vec<_> = all.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(all, ["CUP=mine", "POT=mine", "TEA=b"]);
    }
}
