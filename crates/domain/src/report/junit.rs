//! JUnit XML, as pytest, vitest, jest, node, surefire, nextest and gtest write it.
//!
//! There is no standard. What they share: `testsuite` elements, possibly nested, hold `testcase` elements, and a
//! case that did not simply pass holds `failure`, `error` or `skipped`. Cases are counted, not the totals that
//! suites claim, because totals differ in what they include. But a suite that claims more failures than it
//! shows (jest and surefire do so for a file that could not even be loaded) has the missing ones counted as failed.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};

use super::{Format, ReportError, headline, without_mark};
use crate::pipeline::TestSummary;

/// How many failures are kept in words.
const KEPT: usize = 50;
/// Deeper than any suite is nested; a report beyond it is a mistake or an attack.
const DEEPEST: usize = 200;
/// How much of the text of a failure is read to find its first line.
const LONGEST_TEXT: usize = 16 * 1024;

/// Counts the test cases of a report. A report without any is read as zeros.
pub fn read(text: &str) -> Result<TestSummary, ReportError> {
    let text = without_mark(text);
    let mut xml = Reader::from_str(text);
    let mut parser = Parser::default();
    loop {
        let before = xml.buffer_position();
        let event = xml.read_event().map_err(|e| malformed(text, xml.error_position(), e))?;
        let step = match event {
            Event::Start(element) => parser.open(&element, before),
            Event::Empty(element) => parser.open(&element, before).and_then(|()| parser.close()),
            Event::End(_) => parser.close(),
            Event::Text(part) => parser.text(&part.xml10_content()),
            Event::CData(part) => parser.text(&part),
            Event::GeneralRef(name) => match name.resolve_char_ref() {
                Ok(Some(c)) => parser.text(c.encode_utf8(&mut [0; 4])),
                Ok(None) => reference(&name).and_then(|replacement| parser.text(replacement)),
                Err(error) => Err(Refusal::Broken(error.to_string())),
            },
            Event::DocType(_) => Err(Refusal::Unwanted(
                "it declares a document type, whose entities could grow without end; \
                 let the tool write the report without `<!DOCTYPE`"
                    .into(),
            )),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => Ok(()),
        };
        step.map_err(|refusal| match refusal {
            Refusal::Broken(why) => malformed(text, before, why),
            Refusal::Unwanted(why) => ReportError::Unsupported { format: Format::Junit, why },
        })?;
    }
    match parser.open.last() {
        Some(frame) => {
            Err(malformed(text, frame.offset, "the element that begins here never ends"))
        }
        None if !parser.rooted => Err(malformed(text, 0, "there is no XML element in it")),
        None => Ok(parser.summary),
    }
}

/// An entity of our own would be declared in a document type, and those are refused.
fn reference(name: &str) -> Result<&'static str, Refusal> {
    let unknown = || Refusal::Broken(format!("`&{name};` stands for nothing"));
    resolve_xml_entity(name).ok_or_else(unknown)
}

fn malformed(text: &str, offset: u64, why: impl ToString) -> ReportError {
    let mut end = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line = 1 + before.matches('\n').count() as u64;
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count() as u64;
    ReportError::Malformed { format: Format::Junit, line, column, why: why.to_string() }
}

enum Refusal {
    Broken(String),
    Unwanted(String),
}

/// Which element is open.
enum Element {
    Suite {
        name: String,
        claimed: u32,
        shown: u32,
    },
    Case(Case),
    /// `failure` or `error`: its words are wanted.
    Problem,
    Other,
}

#[derive(Default)]
struct Case {
    name: String,
    skipped: bool,
    problems: u32,
    message: String,
}

struct Frame {
    element: Element,
    offset: u64,
}

#[derive(Default)]
struct Parser {
    open: Vec<Frame>,
    rooted: bool,
    summary: TestSummary,
    /// The words inside the problem that is open.
    words: String,
}

impl Parser {
    fn open(&mut self, tag: &BytesStart<'_>, offset: u64) -> Result<(), Refusal> {
        if self.open.len() >= DEEPEST {
            return Err(Refusal::Unwanted(format!("it is nested more than {DEEPEST} deep")));
        }
        let attributes = Attributes::of(tag)?;
        let name = tag.local_name();
        let element = match (name.as_ref(), self.open.last().map(|frame| &frame.element)) {
            ("testsuites" | "testsuite", None) if !self.rooted => suite(&attributes),
            (_, None) if self.rooted => {
                return Err(Refusal::Broken("something follows the end of the report".into()));
            }
            (other, None) => {
                return Err(Refusal::Unwanted(format!(
                    "its first element is `{other}`, but JUnit begins with `testsuites` or `testsuite`"
                )));
            }
            ("testsuite", Some(Element::Suite { .. })) => suite(&attributes),
            ("testcase", Some(Element::Suite { name, .. })) => case(&attributes, name),
            ("failure" | "error", Some(Element::Case(_) | Element::Suite { .. })) => {
                self.words = attributes.get("message").unwrap_or_default();
                self.words.push('\n');
                Element::Problem
            }
            ("skipped", Some(Element::Case(_))) => {
                self.skip();
                Element::Other
            }
            _ => Element::Other,
        };
        self.rooted = true;
        self.open.push(Frame { element, offset });
        Ok(())
    }

    fn skip(&mut self) {
        if let Some(Frame { element: Element::Case(case), .. }) = self.open.last_mut() {
            case.skipped = true;
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Refusal> {
        match self.open.last().map(|frame| &frame.element) {
            Some(Element::Problem) if self.words.len() < LONGEST_TEXT => self.words.push_str(text),
            None if !text.trim().is_empty() => {
                return Err(Refusal::Broken("there is text outside of the XML".into()));
            }
            _ => {}
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Refusal> {
        let Some(frame) = self.open.pop() else {
            return Err(Refusal::Broken("it closes an element that was never opened".into()));
        };
        match frame.element {
            Element::Problem => self.close_problem(),
            Element::Case(case) => self.close_case(case),
            Element::Suite { name, claimed, shown } => self.close_suite(&name, claimed, shown),
            Element::Other => {}
        }
        Ok(())
    }

    fn close_problem(&mut self) {
        let message = headline(&std::mem::take(&mut self.words));
        match self.open.last_mut().map(|frame| &mut frame.element) {
            Some(Element::Case(case)) => {
                case.problems = case.problems.saturating_add(1);
                if case.message.is_empty() {
                    case.message = message;
                }
            }
            Some(Element::Suite { name, shown, .. }) => {
                *shown = shown.saturating_add(1);
                let line = described(name, &message);
                self.fail(1, line);
            }
            _ => {}
        }
    }

    fn close_case(&mut self, case: Case) {
        if case.problems > 0 {
            self.show(case.problems);
            self.fail(1, described(&case.name, &case.message));
        } else if case.skipped {
            self.summary.skipped = self.summary.skipped.saturating_add(1);
        } else {
            self.summary.passed = self.summary.passed.saturating_add(1);
        }
    }

    fn close_suite(&mut self, name: &str, claimed: u32, shown: u32) {
        let missing = claimed.saturating_sub(shown);
        if missing > 0 {
            let noun = if missing == 1 { "failure" } else { "failures" };
            let message = format!("{missing} {noun} that no test case tells about");
            self.fail(missing, described(name, &message));
        }
        self.show(shown.max(claimed));
    }

    /// The suite around has shown `problems` of those that it claims.
    fn show(&mut self, problems: u32) {
        if let Some(Frame { element: Element::Suite { shown, .. }, .. }) = self.open.last_mut() {
            *shown = shown.saturating_add(problems);
        }
    }

    fn fail(&mut self, tests: u32, line: String) {
        self.summary.failed = self.summary.failed.saturating_add(tests);
        if self.summary.failures.len() < KEPT {
            self.summary.failures.push(line);
        }
    }
}

fn suite(attributes: &Attributes) -> Element {
    let claimed = attributes.number("failures").saturating_add(attributes.number("errors"));
    Element::Suite { name: attributes.get("name").unwrap_or_default(), claimed, shown: 0 }
}

fn case(attributes: &Attributes, suite: &str) -> Element {
    let case = attributes.get("name").unwrap_or_default();
    let class = attributes.get("classname").filter(|class| !class.is_empty());
    let place = class.as_deref().unwrap_or(suite);
    let name = match place {
        "" => case,
        place if place == case => case,
        place => format!("{place}::{case}"),
    };
    // gtest says so with an attribute where others write `<skipped/>`.
    let status = attributes.get("status").unwrap_or_default();
    let skipped = matches!(status.as_str(), "notrun" | "disabled" | "skipped");
    Element::Case(Case { name: headline(&name), skipped, ..Case::default() })
}

fn described(name: &str, message: &str) -> String {
    match (name, message) {
        ("", "") => "a test that has no name".into(),
        (name, "") => name.into(),
        ("", message) => message.into(),
        (name, message) => format!("{name}: {message}"),
    }
}

/// The attributes of one element, unescaped.
struct Attributes(Vec<(String, String)>);

impl Attributes {
    fn of(tag: &BytesStart<'_>) -> Result<Self, Refusal> {
        let broken = |error: &dyn std::fmt::Display| Refusal::Broken(error.to_string());
        let mut pairs = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|e| broken(&e))?;
            let value =
                attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|e| broken(&e))?;
            pairs.push((attribute.key.local_name().as_ref().to_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    fn number(&self, name: &str) -> u32 {
        self.get(name).and_then(|value| value.trim().parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
