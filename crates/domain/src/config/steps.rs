//! Checks the steps of the build and of end-to-end tests.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::file;
use super::findings::Findings;
use super::mistake::{Mistakes, did_you_mean, listed};
use super::paths::checked;
use super::project::{Build, Step};
use super::reader::{At, Loose, Map};
use super::scan;
use crate::units::Span;
use crate::{ServiceName, StepName};

const TIME_LIMIT: Duration = Duration::from_secs(600);
const PARALLEL: u32 = 4;
const MOST_PARALLEL: u32 = 64;
const MOST_RETRIES: u32 = 10;

/// Names of the Compose file's services, as far as they could be read.
pub(super) type Names<'a> = &'a [String];

/// The build pipeline with its defaults, which are others where images are built.
pub(super) fn build(
    file: Option<&file::Build>,
    images: bool,
    names: Names<'_>,
    found: &mut Findings<'_>,
) -> Build {
    let mut seen = Seen::default();
    let mut stage = |steps: Option<&Vec<file::Step>>, integrates: bool| -> Vec<Step> {
        let mut read = |step| self::step(step, integrates, names, &mut seen, found);
        steps.into_iter().flatten().filter_map(&mut read).collect()
    };
    let analyze = stage(file.and_then(|b| b.analyze.as_ref()), false);
    let test = stage(file.and_then(|b| b.test.as_ref()), false);
    let integrate = stage(file.and_then(|b| b.integrate.as_ref()), true);
    let scan = file.and_then(|b| b.scan.as_ref());
    let scan = scan::scan(scan, images, found, |steps, found| {
        let mut read = |step| self::step(step, false, names, &mut seen, found);
        steps.iter().filter_map(&mut read).collect()
    });
    let parallel = file.and_then(|b| b.parallel.as_ref());
    let parallel = between(parallel, 1, MOST_PARALLEL, "steps side by side", &mut found.launchway);
    Build { analyze, test, integrate, scan, parallel: parallel.unwrap_or(PARALLEL) }
}

/// End-to-end tests of one environment.
pub(super) fn e2e(
    steps: Option<&Vec<file::Step>>,
    names: Names<'_>,
    found: &mut Findings<'_>,
) -> Vec<Step> {
    let mut seen = Seen::default();
    let mut read = |step| self::step(step, false, names, &mut seen, found);
    steps.into_iter().flatten().filter_map(&mut read).collect()
}

/// Names of steps and where they were first used.
type Seen = HashMap<StepName, usize>;

fn step(
    step: &file::Step,
    integrates: bool,
    names: Names<'_>,
    seen: &mut Seen,
    found: &mut Findings<'_>,
) -> Option<Step> {
    unique(&step.name, seen, &mut found.launchway);
    let folder = match &step.folder {
        None => String::new(),
        Some(folder) => {
            let path = checked(folder, "the project", &mut found.launchway)?;
            found.expect_folder(&path, folder.extent);
            path
        }
    };
    let with = with(step, integrates, names, &mut found.launchway);
    let mistakes = &mut found.launchway;
    let mut report = |path: &Option<At<String>>| -> Option<String> {
        checked(path.as_ref()?, "the step's folder", mistakes)
    };
    let (junit, sarif, cyclonedx) =
        (report(&step.junit), report(&step.sarif), report(&step.cyclonedx));
    let time_limit = step.time_limit.as_ref().and_then(|span| positive(span, mistakes));
    let retries = between(step.retries.as_ref(), 0, MOST_RETRIES, "retries", mistakes);
    Some(Step {
        name: step.name.value.clone(),
        run: step.run.clone(),
        env: variables(step.env.as_ref(), mistakes),
        time_limit: time_limit.unwrap_or(TIME_LIMIT),
        retries: retries.unwrap_or(0),
        inputs: inputs(step, &folder, !with.is_empty(), mistakes),
        folder,
        junit,
        sarif,
        cyclonedx,
        with,
    })
}

fn unique(name: &At<StepName>, seen: &mut Seen, mistakes: &mut Mistakes<'_>) {
    let line = mistakes.at(name.extent, String::new(), String::new()).line;
    if let Some(first) = seen.get(&name.value) {
        let message = format!("there is another step called `{}`", name.value);
        mistakes.add(
            name.extent,
            message,
            format!("give it a name of its own; the first is in line {first}"),
        );
        return;
    }
    seen.insert(name.value.clone(), line);
}

fn with(
    step: &file::Step,
    integrates: bool,
    names: Names<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Vec<ServiceName> {
    let Some(with) = &step.with else { return Vec::new() };
    if !integrates {
        let help = "remove it, or move the step to `build.integrate`, which has services running";
        mistakes.add(with.title, "`with` is only for steps of `build.integrate`", help);
        return Vec::new();
    }
    let mut services = Vec::new();
    for name in &with.value {
        if names.contains(&name.value) {
            services.extend(ServiceName::new(name.value.as_str()));
            continue;
        }
        mistakes.add(
            name.extent,
            format!("there is no service `{}`", name.value),
            no_service(&name.value, names),
        );
    }
    services
}

/// The way out when a service is not in the Compose file.
pub(super) fn no_service(name: &str, names: Names<'_>) -> String {
    let known = || names.iter().map(String::as_str);
    did_you_mean(name, known(), || {
        format!("the services of the Compose file are {}", listed(known()))
    })
}

fn inputs(
    step: &file::Step,
    folder: &str,
    integrates: bool,
    mistakes: &mut Mistakes<'_>,
) -> Vec<String> {
    let Some(inputs) = &step.inputs else {
        return vec![if integrates { String::new() } else { folder.into() }];
    };
    let mut paths = Vec::new();
    for input in inputs {
        if input.value.contains(['*', '?', '[']) {
            let help = "name the folder instead: everything below it counts";
            mistakes.add(
                input.extent,
                format!("`{}` is a pattern, which `inputs` does not know", input.value),
                help,
            );
            continue;
        }
        paths.extend(checked(input, "the project", mistakes));
    }
    paths
}

/// Variables for a process, with names it can have.
pub(super) fn variables(
    map: Option<&Map<Loose>>,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (key, value) in map.into_iter().flat_map(Map::iter) {
        if !is_variable(&key.text) {
            let message = format!("`{}` cannot be the name of a variable", key.text);
            mistakes.add(
                key.extent,
                message,
                "use letters, digits and `_`, beginning with a letter or `_`",
            );
        }
        variables.insert(key.text.clone(), value.0.clone());
    }
    variables
}

/// Whether a process can have a variable of this name.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A number within its bounds.
pub(super) fn between(
    number: Option<&At<u32>>,
    least: u32,
    most: u32,
    what: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<u32> {
    let number = number?;
    if (least..=most).contains(&number.value) {
        return Some(number.value);
    }
    let message = format!("there cannot be {} {what}", number.value);
    mistakes.add(number.extent, message, format!("write a number from {least} to {most}"));
    None
}

/// A time that is not zero.
pub(super) fn positive(span: &At<Span>, mistakes: &mut Mistakes<'_>) -> Option<Duration> {
    if !span.value.0.is_zero() {
        return Some(span.value.0);
    }
    mistakes.add(span.extent, "no time at all is too short", "write a time above zero, like `30s`");
    None
}
