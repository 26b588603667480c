//! A YAML document as a tree that knows where everything stands in the file.
//!
//! Aliases and merge keys are resolved here, with a bound; duplicate keys are mistakes.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, options};

use super::mistake::{Extent, Mistakes, Source};

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub extent: Extent,
    /// The key it is the value of.
    pub key: Option<Key>,
    pub value: Value,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Scalar { text: String, kind: Kind },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// What an unquoted scalar means in YAML 1.2; quoted ones are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Bool,
}

/// A key of a mapping and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub text: String,
    pub extent: Extent,
}

impl Node {
    /// Where to point at when something is missing inside: the key, if there is one.
    pub fn title(&self) -> Extent {
        self.key.as_ref().map_or(self.extent, |key| key.extent)
    }

    /// Its kind in words.
    pub fn describe(&self) -> &'static str {
        match &self.value {
            Value::Null => "empty",
            Value::Scalar { kind: Kind::Text, .. } => "text",
            Value::Scalar { kind: Kind::Number, .. } => "a number",
            Value::Scalar { kind: Kind::Bool, .. } => "`true` or `false`",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    fn size(&self) -> usize {
        match &self.value {
            Value::Null | Value::Scalar { .. } => 1,
            Value::List(items) => 1 + items.iter().map(Self::size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(_, node)| node.size()).sum::<usize>(),
        }
    }
}

/// Reads the one document of a file. `None` when the text is not YAML; the mistake is noted.
pub(super) fn parse(source: Source<'_>, mistakes: &mut Mistakes<'_>) -> Option<Node> {
    if source.text.len() > LARGEST {
        let start = Extent { start: 0, end: 1 };
        mistakes.add(start, "the file is larger than 1 MiB", "keep data out of it");
        return None;
    }
    let options = options! { emit_comments: false, emit_unresolved_aliases: true, flow_nesting_limit: 32, block_nesting_limit: 32 };
    let mut builder = Builder::new(source.text, mistakes);
    for next in Parser::new_from_str_with_options(source.text, options) {
        match next {
            Ok((event, span)) => builder.take(event, span)?,
            Err(error) => {
                builder.syntax(&error);
                return None;
            }
        }
    }
    let end = Extent { start: source.text.len(), end: source.text.len() };
    Some(builder.root.unwrap_or(Node { extent: end, key: None, value: Value::Null }))
}

/// Nodes that aliases may add: enough for any honest file, and a bound for "a billion laughs".
const MOST_ALIASED: usize = 10_000;

/// No honest file comes near it.
const LARGEST: usize = 1 << 20;

/// A collection whose end was not seen yet.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    pending: Option<Key>,
    /// The keys so far and where they are.
    keys: HashMap<String, Extent>,
}

struct Builder<'t, 'm, 's> {
    text: &'t str,
    mistakes: &'m mut Mistakes<'s>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    documents: usize,
    root: Option<Node>,
}

impl<'t, 'm, 's> Builder<'t, 'm, 's> {
    fn new(text: &'t str, mistakes: &'m mut Mistakes<'s>) -> Self {
        let (open, anchors) = (Vec::new(), HashMap::new());
        Self { text, mistakes, open, anchors, aliased: 0, documents: 0, root: None }
    }

    /// Takes one event; `None` when reading on makes no sense.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let extent = extent(&span);
        if let Some(tag) = event.tag() {
            self.mistakes.add(
                span.tag_span().as_ref().map_or(extent, self::extent),
                format!("the tag `{tag}` is not supported"),
                "remove the tag: values are read by what their key expects",
            );
        }
        match event {
            Event::DocumentStart(..) => return self.document(extent),
            Event::Scalar(text, style, anchor, _) => {
                self.push(Node { extent, key: None, value: scalar(&text, style) }, anchor);
            }
            Event::SequenceStart(_, anchor, _) => self.begin(extent, anchor, Value::List(vec![])),
            Event::MappingStart(_, anchor, _) => self.begin(extent, anchor, Value::Map(vec![])),
            Event::SequenceEnd | Event::MappingEnd => self.end(extent),
            Event::Alias(id) => return self.alias(id, extent),
            Event::UnresolvedAlias(name) => {
                self.mistakes.add(
                    extent,
                    format!("there is no anchor `&{name}` before this alias"),
                    format!("write `&{name}` before the value that is meant, or quote the text if it is no alias"),
                );
                return None;
            }
            _ => {}
        }
        Some(())
    }

    fn document(&mut self, extent: Extent) -> Option<()> {
        self.documents += 1;
        if self.documents == 1 {
            return Some(());
        }
        self.mistakes.add(
            extent,
            "a second document begins here",
            "keep everything in one document: remove the `---`",
        );
        None
    }

    fn begin(&mut self, extent: Extent, anchor: usize, value: Value) {
        let node = Node { extent, key: None, value };
        self.open.push(Open { node, anchor, pending: None, keys: HashMap::new() });
    }

    fn end(&mut self, extent: Extent) {
        let Some(mut done) = self.open.pop() else { return };
        done.node.extent.end = extent.end;
        if let Value::Map(entries) = &mut done.node.value {
            merge(entries, self.mistakes);
        }
        self.push(done.node, done.anchor);
    }

    /// Puts a finished node where it belongs.
    fn push(&mut self, mut node: Node, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut parent.node.value {
            Value::List(items) => items.push(node),
            Value::Map(entries) => match parent.pending.take() {
                None => parent.pending = Some(key(node, self.mistakes)),
                Some(key) => {
                    if let Some(first) = parent.keys.get(&key.text) {
                        let first = self.mistakes.at(*first, String::new(), String::new());
                        self.mistakes.add(
                            key.extent,
                            format!("the key `{}` is here a second time", key.text),
                            format!("keep one of them; the first is in line {}", first.line),
                        );
                        return;
                    }
                    if key.text != "<<" {
                        parent.keys.insert(key.text.clone(), key.extent);
                    }
                    node.key = Some(key.clone());
                    entries.push((key, node));
                }
            },
            Value::Null | Value::Scalar { .. } => {}
        }
    }

    fn alias(&mut self, id: usize, extent: Extent) -> Option<()> {
        let Some(target) = self.anchors.get(&id) else {
            self.mistakes.add(
                extent,
                "this alias stands inside the value that it repeats",
                "write the value out instead",
            );
            return None;
        };
        self.aliased += target.size();
        if self.aliased > MOST_ALIASED {
            self.mistakes.add(
                extent,
                format!("the aliases of this file expand to more than {MOST_ALIASED} values"),
                "write the values out, or nest aliases less",
            );
            return None;
        }
        let node = Node { extent, key: None, ..target.clone() };
        self.push(node, 0);
        Some(())
    }

    fn syntax(&mut self, error: &ScanError) {
        let mut offset = error.marker().byte_offset().unwrap_or(self.text.len());
        let help = syntax_help(error.kind());
        // The parser stands behind the tab that it complains about.
        if help == NO_TABS && self.text.get(..offset).is_some_and(|before| before.ends_with('\t')) {
            offset -= 1;
        }
        let rest = self.text.get(offset..).unwrap_or("");
        let length = rest.find('\n').unwrap_or(rest.len());
        self.mistakes.add(
            Extent { start: offset, end: offset + length },
            format!("this is not YAML: {}", error.kind()),
            help,
        );
    }
}

const NO_TABS: &str = "indent with spaces: YAML does not allow tabs there";

fn syntax_help(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart
        | ErrorKind::TabInPlainScalar => NO_TABS,
        ErrorKind::UnclosedQuotedScalar => "close the text with the quote that it began with",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator => {
            "close every `[` with `]` and every `{` with `}`, and put `,` between the values"
        }
        ErrorKind::MappingValueNotAllowed => {
            "put text that contains `: ` in quotes, and check the indentation of this line"
        }
        ErrorKind::RecursionLimitExceeded => "nest less deeply: 32 levels are the most",
        ErrorKind::UnexpectedCharacter { .. } => {
            "put text that begins with `@`, `%` or a backtick in quotes"
        }
        _ => {
            "check the indentation, the quotes and the `:` and `-` of this line and the one before"
        }
    }
}

fn extent(span: &Span) -> Extent {
    let range = span.byte_range().unwrap_or_default();
    Extent { start: range.start, end: range.end }
}

fn key(node: Node, mistakes: &mut Mistakes<'_>) -> Key {
    let text = match node.value {
        Value::Scalar { text, .. } => text,
        Value::Null => "null".into(),
        Value::List(_) | Value::Map(_) => {
            mistakes.add(node.extent, "a key must be plain text", "write the key as text");
            String::new()
        }
    };
    Key { text, extent: node.extent }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = style == ScalarStyle::Plain;
    let kind = match text {
        _ if !plain => Kind::Text,
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Bool,
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    };
    Value::Scalar { text: text.into(), kind }
}

/// A number of YAML's core schema.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let radix = |prefix: &str, base: u32| {
        text.strip_prefix(prefix)
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(base)))
    };
    let special =
        [".inf", ".Inf", ".INF"].contains(&unsigned) || [".nan", ".NaN", ".NAN"].contains(&text);
    let decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b))
        && unsigned.parse::<f64>().is_ok();
    special || decimal || radix("0x", 16) || radix("0o", 8)
}

/// Resolves `<<`: keys of the mappings it names, where the mapping itself does not say otherwise.
fn merge(entries: &mut Vec<(Key, Node)>, mistakes: &mut Mistakes<'_>) {
    let mut merged = Vec::new();
    entries.retain_mut(|(key, node)| {
        let merges = key.text == "<<";
        if merges {
            merged.push(node.clone());
        }
        !merges
    });
    for node in merged {
        let parts = match node.value {
            Value::List(items) => items,
            _ => vec![node],
        };
        for part in parts {
            let Value::Map(more) = part.value else {
                mistakes.add(
                    part.extent,
                    "`<<` merges mappings, this is none",
                    "write `<<: *name` with the alias of a mapping",
                );
                continue;
            };
            for (key, node) in more {
                if !entries.iter().any(|(known, _)| known.text == key.text) {
                    entries.push((key, node));
                }
            }
        }
    }
}
