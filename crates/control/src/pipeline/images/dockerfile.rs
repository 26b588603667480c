//! Which images a Dockerfile begins with: what they are decides about what is built.

use std::collections::{BTreeMap, BTreeSet};

/// The images that are named in `FROM` and `COPY --from`, with the values of `ARG`s before the first `FROM`.
/// A name with a variable that has no value is left out: the build itself refuses it.
pub(crate) fn bases(text: &str, args: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut stages: BTreeSet<String> = BTreeSet::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(instruction) = words.first().map(|word| word.to_ascii_uppercase()) else {
            continue;
        };
        let plain: Vec<&str> = words.iter().copied().filter(|w| !w.starts_with("--")).collect();
        match instruction.as_str() {
            "ARG" if stages.is_empty() && found.is_empty() => {
                for word in plain.iter().skip(1) {
                    let (name, default) = word.split_once('=').unwrap_or((word, ""));
                    let value = args.get(name).map_or(unquoted(default), String::as_str);
                    known.insert(name.to_owned(), value.to_owned());
                }
            }
            "FROM" => {
                let image = plain.get(1).and_then(|image| filled(unquoted(image), &known));
                found.extend(image.filter(|image| image != "scratch" && !stages.contains(image)));
                // A stage without a name counts too: it is an instruction before which no `ARG` is global.
                let named = plain.get(2).is_some_and(|word| word.eq_ignore_ascii_case("as"));
                let name = plain.get(3).filter(|_| named).map(|name| name.to_ascii_lowercase());
                stages.insert(name.unwrap_or_else(|| stages.len().to_string()));
            }
            "COPY" | "ADD" => {
                let from = words.iter().find_map(|word| word.strip_prefix("--from="));
                let from = from.filter(|from| {
                    let stage = from.to_ascii_lowercase();
                    !stages.contains(&stage) && from.parse::<usize>().is_err()
                });
                found.extend(from.and_then(|from| filled(from, &known)));
            }
            _ => {}
        }
    }
    found
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(['"', '\''])
}

/// With the values of `$NAME`, `${NAME}` and `${NAME:-default}`.
fn filled(text: &str, known: &BTreeMap<String, String>) -> Option<String> {
    let Some((before, rest)) = text.split_once('$') else { return Some(text.to_owned()) };
    let (name, default, after) = match rest.strip_prefix('{') {
        Some(rest) => {
            let (inside, after) = rest.split_once('}')?;
            let (name, default) =
                inside.split_once(":-").map_or((inside, None), |(n, d)| (n, Some(d)));
            (name, default, after)
        }
        None => {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
            (name, None, after)
        }
    };
    let value =
        known.get(name).map(String::as_str).filter(|value| !value.is_empty()).or(default)?;
    Some(format!("{before}{value}{}", filled(after, known)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<String> {
        let args = BTreeMap::from([("TAG".to_owned(), "9".to_owned())]);
        bases(text, &args).into_iter().collect()
    }

    #[test]
    fn images_are_found_and_stages_are_none() {
        let text = "# syntax=docker/dockerfile:1\nARG TAG=8\nARG OS\nFROM --platform=linux/amd64 node:${TAG} AS Builder\n\
                    RUN x\nfrom nginx:alpine\nCOPY --from=builder /a /b\nCOPY --from=0 /a /b\n\
                    COPY --from=busybox:1 /a /b\nFROM scratch\nFROM builder\nFROM ${OS:-debian}:12\nFROM $NOTHING";
        assert_eq!(named(text), ["busybox:1", "debian:12", "nginx:alpine", "node:9"]);
    }

    #[test]
    fn an_argument_of_a_stage_is_not_one_of_a_base() {
        assert_eq!(named("FROM a\nARG X=b\nFROM $X\n"), ["a"]);
    }
}
