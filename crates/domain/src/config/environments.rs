//! Checks the environments: their hosts, their order, and the gates on the way into each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compose;
use super::file;
use super::findings::Findings;
use super::hosts;
use super::mistake::{Mistakes, did_you_mean, listed};
use super::paths::checked;
use super::project::{
    Approval, BackingKind, Bake, EngineKind, Environment, Performance, Service, ServiceKind,
    Verify, host_variable, port_variable,
};
use super::reader::{At, Map};
use super::services::MOST_REPLICAS;
use super::steps::{Names, between, e2e, no_service, positive, variables};
use super::tls;
use super::yaml::Key;
use crate::route::{close_spread, covers};
use crate::slot::Launch;
use crate::units::{Factor, Span};
use crate::{AppName, EnvironmentName, ServiceName};

const DRAIN: Duration = Duration::from_secs(30);
const KEEP: Duration = Duration::from_secs(30 * 60);
const EXPIRES: Duration = Duration::from_secs(24 * 3600);
const SLOWER: Factor = Factor(1.5);

/// What environments are checked against.
pub(super) struct Around<'a> {
    pub app: &'a AppName,
    pub compose: &'a Map<compose::Service>,
    pub services: &'a BTreeMap<ServiceName, Service>,
    pub names: Names<'a>,
    /// Prefixes of the routes.
    pub routes: &'a [&'a str],
}

/// All environments, in the order of `after`.
pub(super) fn environments(
    map: &At<Map<file::Environment>>,
    around: &Around<'_>,
    found: &mut Findings<'_>,
) -> Vec<Environment> {
    if map.value.0.is_empty() {
        let help = "add at least one, for example `environments: { production: {} }`";
        found.launchway.add(map.title, "there is no environment to bring a release to", help);
    }
    let mut read = Vec::new();
    for (key, environment) in map.value.iter() {
        read.extend(self::environment(key, environment, around, found));
    }
    hosts::distinct(&map.value, &read, &mut found.launchway);
    afters(&map.value, &mut found.launchway);
    in_order(read)
}

fn environment(
    key: &Key,
    file: &file::Environment,
    around: &Around<'_>,
    found: &mut Findings<'_>,
) -> Option<Environment> {
    let name = match EnvironmentName::new(key.text.as_str()) {
        Ok(name) => name,
        Err(error) => {
            let message = format!("`{}` is not a valid environment name", key.text);
            found.launchway.add(key.extent, message, error.rule);
            return None;
        }
    };
    let host = match &file.host {
        Some(host) => hosts::checked(host, &mut found.launchway),
        None => format!("{name}.{}.localhost", around.app),
    };
    trigger(file, &mut found.launchway);
    let variables = variables(file.variables.as_ref(), &mut found.launchway);
    let names: Vec<String> = further(file, &mut found.launchway);
    let all = std::iter::once(host.as_str()).chain(names.iter().map(String::as_str));
    let tls = file.tls.as_ref().and_then(|tls| tls::tls(tls, all, &mut found.launchway));
    let environment = Environment {
        engine: file.runs_on().unwrap_or(EngineKind::Process),
        host,
        names,
        tls,
        branch: file.branch.as_ref().map(|branch| branch.value.clone()),
        after: file
            .after
            .as_ref()
            .and_then(|after| EnvironmentName::new(after.value.as_str()).ok()),
        verify: verify(file.verify.as_ref(), around, found),
        approval: file.approval.as_ref().and_then(|a| approval(a, &mut found.launchway)),
        bake: file.bake.as_ref().and_then(|b| bake(b, &mut found.launchway)),
        replicas: replicas(file.replicas.as_ref(), around, &mut found.launchway),
        load: load(file.data.as_ref(), around, found),
        drain: file.drain.map_or(DRAIN, |span| span.0),
        spread: file.spread.map_or(close_spread(), |span| span.0),
        keep: file.keep.map_or(KEEP, |span| span.0),
        variables,
        name,
    };
    given(file, around, &mut found.launchway);
    Some(environment)
}

fn further(file: &file::Environment, mistakes: &mut Mistakes<'_>) -> Vec<String> {
    file.names.iter().flatten().map(|name| hosts::checked(name, mistakes)).collect()
}

fn trigger(file: &file::Environment, mistakes: &mut Mistakes<'_>) {
    if let (Some(_), Some(after)) = (&file.branch, &file.after) {
        let message = "an environment follows a branch or another environment, not both";
        mistakes.add(after.title, message, "keep `branch` or `after`, and remove the other");
    }
    if let Some(branch) = &file.branch
        && branch.value.contains([' ', '~', '^', ':', '*', '?', '['])
    {
        let message = format!("`{}` is not the name of a branch", branch.value);
        mistakes.add(
            branch.extent,
            message,
            "write the branch alone, like `main`; patterns are not supported",
        );
    }
}

fn verify(file: Option<&file::Verify>, around: &Around<'_>, found: &mut Findings<'_>) -> Verify {
    let Some(file) = file else { return Verify::default() };
    let performance = file.performance.as_ref();
    Verify {
        e2e: e2e(file.e2e.as_ref(), around.names, found),
        performance: performance.and_then(|p| self::performance(p, around, &mut found.launchway)),
    }
}

fn performance(
    file: &At<file::Performance>,
    around: &Around<'_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<Performance> {
    let test = &file.value;
    let unread = mistakes.has_within(file.extent);
    if test.p95.is_none() && test.p99.is_none() && test.versus.is_none() && !unread {
        let message = "`performance` has no threshold for the time of an answer";
        mistakes.add(file.title, message, "add `p95: 250ms`, `p99: 500ms` or `versus: live`");
    }
    if let (Some(slower), None, false) = (&test.slower, &test.versus, unread) {
        let message = "`slower` compares with the live release, and nothing asks for that";
        mistakes.add(slower.title, message, "add `versus: live`, or remove `slower`");
    }
    if let (Some(Span(p95)), Some(Span(p99))) = (test.p95, test.p99)
        && p95 > p99
    {
        mistakes.add(
            file.title,
            "`p95` is above `p99`, which cannot be",
            "exchange them, or correct one",
        );
    }
    let slower = test.slower.as_ref().map_or(SLOWER, |slower| slower.value);
    Some(Performance {
        rate: test.rate,
        duration: positive(&test.duration, mistakes)?,
        paths: test
            .paths
            .as_ref()
            .map_or_else(|| vec!["/".into()], |p| paths(p, around.routes, mistakes)),
        p95: test.p95.map(|span| span.0),
        p99: test.p99.map(|span| span.0),
        errors: test.errors,
        versus_live: test.versus.as_ref().map(|_| slower),
    })
}

fn paths(paths: &At<Vec<At<String>>>, routes: &[&str], mistakes: &mut Mistakes<'_>) -> Vec<String> {
    if paths.value.is_empty() {
        mistakes.add(
            paths.title,
            "there is no path to ask",
            "add one, like `/`, or remove `paths`",
        );
    }
    for path in &paths.value {
        if !path.value.starts_with('/') {
            let message = format!("`{}` is not a path to ask", path.value);
            mistakes.add(
                path.extent,
                message,
                "write the path alone, from its `/` on, like `/api/teas`",
            );
        } else if !routes.is_empty()
            && !routes.iter().any(|route| covers(route, before_query(&path.value)))
        {
            let message = format!("no route answers `{}`", path.value);
            mistakes.add(
                path.extent,
                message,
                format!("the routes are {}", listed(routes.iter().copied())),
            );
        }
    }
    paths.value.iter().map(|path| path.value.clone()).collect()
}

fn before_query(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

fn approval(file: &file::Approval, mistakes: &mut Mistakes<'_>) -> Option<Approval> {
    if file.from.value.is_empty() {
        let message = "nobody could give this approval";
        mistakes.add(
            file.from.title,
            message,
            "name OS users or groups, like `from: [release-managers]`",
        );
    }
    let expires = file.expires.as_ref().map_or(Some(EXPIRES), |span| positive(span, mistakes));
    Some(Approval {
        from: file.from.value.iter().map(|name| name.value.clone()).collect(),
        not_author: file.not_author.unwrap_or(false),
        expires: expires?,
    })
}

fn bake(file: &file::Bake, mistakes: &mut Mistakes<'_>) -> Option<Bake> {
    Some(Bake { duration: positive(&file.duration, mistakes)?, errors: file.errors, p99: file.p99 })
}

fn replicas(
    map: Option<&Map<At<u32>>>,
    around: &Around<'_>,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<ServiceName, u32> {
    let mut replicas = BTreeMap::new();
    for (key, number) in map.into_iter().flat_map(Map::iter) {
        let Some((name, service)) = known(key, around, mistakes) else { continue };
        let Some(number) = between(Some(number), 1, MOST_REPLICAS, "replicas", mistakes) else {
            continue;
        };
        let runs = match &service.kind {
            ServiceKind::Backing { .. } => Err("a backing service runs once in an environment"),
            ServiceKind::Built(built) => match built.native.as_ref().map(|native| &native.launch) {
                Some(Launch::Static(_)) => Err("the edge serves its files, nothing runs"),
                _ => Ok(()),
            },
        };
        if let Err(why) = runs {
            let message = format!("`{name}` cannot have replicas: {why}");
            mistakes.add(key.extent, message, "remove it");
        }
        replicas.insert(name, number);
    }
    replicas
}

/// The service of a key; nothing, and no second mistake, for one that could not be read.
fn known<'a>(
    key: &Key,
    around: &Around<'a>,
    mistakes: &mut Mistakes<'_>,
) -> Option<(ServiceName, &'a Service)> {
    if !around.compose.has(&key.text) {
        let message = format!("there is no service `{}`", key.text);
        mistakes.add(key.extent, message, no_service(&key.text, around.names));
        return None;
    }
    let name = ServiceName::new(key.text.as_str()).ok()?;
    let service = around.services.get(&name)?;
    Some((name, service))
}

fn load(
    map: Option<&Map<file::Data>>,
    around: &Around<'_>,
    found: &mut Findings<'_>,
) -> BTreeMap<ServiceName, String> {
    let mut load = BTreeMap::new();
    for (key, data) in map.into_iter().flat_map(Map::iter) {
        let Some((name, service)) = known(key, around, &mut found.launchway) else { continue };
        let image = match &service.kind {
            ServiceKind::Backing { image } => image.as_str(),
            ServiceKind::Built(_) => "",
        };
        if BackingKind::of(image) != Some(BackingKind::Postgres) {
            let message =
                format!("`{name}` is not a PostgreSQL service, SQL cannot be loaded into it");
            found.launchway.add(
                key.extent,
                message,
                "remove it, or name the service with the postgres image",
            );
            continue;
        }
        let Some(path) = checked(&data.load, "the project", &mut found.launchway) else { continue };
        found.expect_file(&path, data.load.extent);
        load.insert(name, path);
    }
    load
}

/// Launchway gives addresses itself: setting them would be overruled in silence.
fn given(file: &file::Environment, around: &Around<'_>, mistakes: &mut Mistakes<'_>) {
    for (key, _) in file.variables.iter().flat_map(Map::iter) {
        for name in around.services.keys() {
            if key.text == host_variable(name) || key.text == port_variable(name) {
                let message =
                    format!("`{}` is given by Launchway: the address of `{name}`", key.text);
                mistakes.add(key.extent, message, "remove it, or give your variable another name");
            }
        }
    }
}

/// Every `after` names another environment, and following them ends.
fn afters(map: &Map<file::Environment>, mistakes: &mut Mistakes<'_>) {
    let after = |name: &str| map.get(name).and_then(|environment| environment.after.as_ref());
    let mut told: Vec<&str> = Vec::new();
    for (key, environment) in map.iter() {
        let Some(at) = &environment.after else { continue };
        if !map.has(&at.value) {
            let all = || format!("the environments are {}", listed(map.names()));
            let others = map.names().filter(|name| *name != key.text);
            let message = format!("there is no environment `{}`", at.value);
            mistakes.add(at.extent, message, did_you_mean(&at.value, others, all));
            continue;
        }
        let mut way = vec![key.text.as_str()];
        while let Some(next) = way.last().and_then(|last| after(last)) {
            if way.contains(&next.value.as_str()) {
                break;
            }
            way.push(&next.value);
        }
        let closes =
            way.last().and_then(|last| after(last)).is_some_and(|next| next.value == key.text);
        if closes && !told.contains(&key.text.as_str()) {
            told.extend(&way);
            way.push(&key.text);
            let message = format!("`after` goes round in a circle: {}", way.join(" after "));
            mistakes.add(at.extent, message, "remove one `after` of the circle");
        }
    }
}

/// What others wait for comes first; otherwise the order of the file.
fn in_order(mut left: Vec<Environment>) -> Vec<Environment> {
    let mut ordered: Vec<Environment> = Vec::new();
    while !left.is_empty() {
        let ready = |environment: &Environment| {
            environment.after.as_ref().is_none_or(|after| ordered.iter().any(|e| e.name == *after))
        };
        let next = left.iter().position(ready).unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}
