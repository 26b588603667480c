//! Compose's interpolation: `$VAR`, `${VAR:-default}`, `${VAR:?message}`, `${VAR:+other}` and `$$`.

/// Why a template has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterpolationError {
    #[error("`{text}` is not a variable")]
    Invalid {
        /// From the `$` on.
        text: String,
        /// In bytes, in the template.
        offset: usize,
        help: &'static str,
    },
    #[error("`{name}` has no value: {message}")]
    Required { name: String, message: String },
}

impl InterpolationError {
    /// The part of the template that it is about.
    pub(super) fn needle(&self) -> &str {
        match self {
            Self::Invalid { text, .. } => text,
            Self::Required { name, .. } => name,
        }
    }

    /// What is wrong, without the text it is in: that may be a secret.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Invalid { help, .. } => (*help).into(),
            Self::Required { name, .. } => format!("`{name}` has no value"),
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            Self::Invalid { help, .. } => (*help).into(),
            Self::Required { name, .. } => {
                format!("give `{name}` a value in `variables` of the environment")
            }
        }
    }
}

/// Puts values into `template`. A variable without a value and without a default becomes empty text,
/// as in Compose.
pub fn interpolate(
    template: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, InterpolationError> {
    Template::parse(template)?.resolve(lookup, &mut |_| {})
}

/// Text with variables in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { name: String, or: Option<Or> },
}

/// What happens when a variable is missing, or is not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Or {
    /// `:` counts an empty value as missing.
    empty_is_missing: bool,
    what: What,
    word: Template,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Default,
    Error,
    Other,
}

/// Defaults may hold variables with defaults; deeper than this is nobody's intention.
const DEEPEST: usize = 16;

impl Template {
    pub fn parse(text: &str) -> Result<Self, InterpolationError> {
        let mut parser = Parser { text, at: 0 };
        let template = parser.parts(0)?;
        debug_assert_eq!(parser.at, text.len());
        Ok(template)
    }

    /// The text with its values. Names without a value and without a way around are told to `blank`.
    pub fn resolve(
        &self,
        lookup: &dyn Fn(&str) -> Option<String>,
        blank: &mut dyn FnMut(&str),
    ) -> Result<String, InterpolationError> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Variable { name, or } => {
                    out.push_str(&variable(name, or.as_ref(), lookup, blank)?)
                }
            }
        }
        Ok(out)
    }
}

fn variable(
    name: &str,
    or: Option<&Or>,
    lookup: &dyn Fn(&str) -> Option<String>,
    blank: &mut dyn FnMut(&str),
) -> Result<String, InterpolationError> {
    let value = lookup(name);
    let Some(or) = or else {
        return Ok(value.unwrap_or_else(|| {
            blank(name);
            String::new()
        }));
    };
    let value = value.filter(|value| !(or.empty_is_missing && value.is_empty()));
    match (or.what, value) {
        (What::Default | What::Error, Some(value)) => Ok(value),
        (What::Default, None) | (What::Other, Some(_)) => or.word.resolve(lookup, blank),
        (What::Other, None) => Ok(String::new()),
        (What::Error, None) => {
            let message = or.word.resolve(lookup, blank)?;
            let message = if message.is_empty() { "it is required".into() } else { message };
            Err(InterpolationError::Required { name: name.into(), message })
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn invalid(&self, from: usize, help: &'static str) -> InterpolationError {
        let text = self.text[from..].chars().take(40).collect();
        InterpolationError::Invalid { text, offset: from, help }
    }

    /// Parts up to the end of the text, or inside braces up to the closing one.
    fn parts(&mut self, depth: usize) -> Result<Template, InterpolationError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(next) = self.rest().chars().next() {
            match next {
                '}' if depth > 0 => break,
                '$' if self.rest().starts_with("$$") => {
                    text.push('$');
                    self.at += 2;
                }
                '$' => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(self.variable(depth)?);
                }
                _ => {
                    text.push(next);
                    self.at += next.len_utf8();
                }
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Template(parts))
    }

    fn variable(&mut self, depth: usize) -> Result<Part, InterpolationError> {
        let from = self.at;
        self.at += 1;
        let braces = self.rest().starts_with('{');
        self.at += usize::from(braces);
        let name = self.name();
        if name.is_empty() {
            return Err(
                self.invalid(from, "write `$$` for a dollar sign, or `${NAME}` for a variable")
            );
        }
        if !braces {
            return Ok(Part::Variable { name: name.into(), or: None });
        }
        let or = self.or(from, depth)?;
        if !self.rest().starts_with('}') {
            return Err(self.invalid(from, "close the variable with `}`"));
        }
        self.at += 1;
        Ok(Part::Variable { name: name.into(), or })
    }

    fn name(&mut self) -> &'t str {
        let rest = self.rest();
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        if rest.starts_with(|c: char| c.is_ascii_digit()) {
            return "";
        }
        self.at += end;
        &rest[..end]
    }

    fn or(&mut self, from: usize, depth: usize) -> Result<Option<Or>, InterpolationError> {
        if self.rest().is_empty() || self.rest().starts_with('}') {
            return Ok(None);
        }
        let empty_is_missing = self.rest().starts_with(':');
        self.at += usize::from(empty_is_missing);
        let what = match self.rest().chars().next() {
            Some('-') => What::Default,
            Some('?') => What::Error,
            Some('+') => What::Other,
            _ => {
                let help = "after the name comes `:-default`, `:?message`, `:+other` or `}`";
                return Err(self.invalid(from, help));
            }
        };
        self.at += 1;
        if depth >= DEEPEST {
            return Err(self.invalid(from, "nest defaults less deeply: 16 levels are the most"));
        }
        Ok(Some(Or { empty_is_missing, what, word: self.parts(depth + 1)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_tea(template: &str) -> Result<String, String> {
        let lookup = |name: &str| match name {
            "TEA" => Some("sencha".to_owned()),
            "NOTHING" => Some(String::new()),
            _ => None,
        };
        interpolate(template, &lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn every_form_of_compose_gets_its_value() {
        for (template, value) in [
            ("plain", "plain"),
            ("$TEA-house", "sencha-house"),
            ("${TEA}house", "senchahouse"),
            ("${CUP:-mug}", "mug"),
            ("${NOTHING:-mug}", "mug"),
            ("${NOTHING-mug}", ""),
            ("${CUP-mug}", "mug"),
            ("${TEA:+hot}", "hot"),
            ("${NOTHING:+hot}", ""),
            ("${NOTHING+hot}", "hot"),
            ("${CUP+hot}", ""),
            ("${CUP:-${POT:-$TEA}}", "sencha"),
            ("${CUP:-a}b}", "ab}"),
            ("$$TEA costs $$5", "$TEA costs $5"),
            ("$CUP.", "."),
            ("${TEA:?no tea}", "sencha"),
            ("${CUP:-}", ""),
        ] {
            assert_eq!(with_tea(template).as_deref(), Ok(value), "{template}");
        }
    }

    #[test]
    fn a_required_variable_without_a_value_says_its_message() {
        assert_eq!(with_tea("${CUP:?bring a cup}").unwrap_err(), "`CUP` has no value: bring a cup");
        assert_eq!(with_tea("${NOTHING?gone}"), Ok(String::new()));
        assert!(with_tea("${NOTHING:?gone}").is_err());
    }

    #[test]
    fn what_is_no_variable_is_refused() {
        for template in
            ["$", "costs $5", "${", "${TEA", "${TEA:", "${TEA:=x}", "${}", "${1}", "${TEA:-${CUP}"]
        {
            assert!(with_tea(template).is_err(), "{template}");
        }
        assert!(with_tea(&"${A:-".repeat(10_000)).is_err());
    }
}
