//! Commands: a list of arguments, or text that is split like a shell would, without being one.

use crate::config::mistake::Mistakes;
use crate::config::reader::{FromNode, wrong};
use crate::config::yaml::{Node, Value};

use super::scalars::text_of;

/// `command` or `entrypoint`; `None` is the image's own.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Command(pub Option<Vec<String>>);

const SHELL: &str = "write `[sh, -c, \"...\"]`: Compose runs no shell by itself";

impl FromNode for Command {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Self(None)),
            Value::Scalar { .. } => {
                let text = text_of(node)?;
                match split(&text) {
                    Ok(words) => Some(Self(Some(words))),
                    Err((message, help)) => {
                        mistakes.add(node.extent, message, help);
                        None
                    }
                }
            }
            Value::List(items) => {
                let mut words = Vec::new();
                for item in items {
                    match text_of(item) {
                        Some(word) => words.push(word),
                        None => wrong(
                            item,
                            mistakes,
                            "text",
                            "write one argument in each line after `- `",
                        ),
                    }
                }
                Some(Self(Some(words)))
            }
            Value::Map(_) => {
                wrong(node, mistakes, "text or a list", "write `[program, argument]`");
                None
            }
        }
    }
}

/// The words of a command: quotes and backslashes as in a shell, nothing else of it.
pub(super) fn split(text: &str) -> Result<Vec<String>, (String, &'static str)> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let Some(next) = chars.next() else {
                    return Err((
                        "the command ends with a backslash".into(),
                        "remove it, or double it",
                    ));
                };
                word.get_or_insert_default().push(match next {
                    't' => '\t',
                    'n' => '\n',
                    next => next,
                });
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')' | '`') => {
                return Err((format!("`{c}` in the command would need a shell"), SHELL));
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err((
            "a quote in the command is not closed".into(),
            "close it, or escape it with `\\`",
        ));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_like_a_shell_would() {
        for (text, wanted) in [
            ("", &[][..]),
            ("npm  start\n", &["npm", "start"]),
            ("sh -c 'a && b'", &["sh", "-c", "a && b"]),
            (r#"echo "it's \"hot\"" it\'s"#, &["echo", "it's \"hot\"", "it's"]),
            (r"a\ b '' c", &["a b", "", "c"]),
            (r"'a\b'", &[r"a\b"]),
            ("--x='1 2' --y", &["--x=1 2", "--y"]),
        ] {
            assert_eq!(split(text).expect(text), wanted, "{text}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_refused() {
        for text in ["a && b", "a | b", "a > b", "a; b", "$(a)", "`a`", "'a", "a \\"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
