//! Checks the routes: what answers which paths.

use std::collections::BTreeMap;

use super::compose;
use super::file;
use super::mistake::{Mistakes, listed};
use super::project::Target;
use super::reader::{At, Map};
use super::steps::{Names, no_service};
use crate::ServiceName;

/// Path prefix to what answers it.
pub(super) fn routes(
    map: &At<Map<file::Route>>,
    services: &Map<compose::Service>,
    names: Names<'_>,
    mistakes: &mut Mistakes<'_>,
) -> BTreeMap<String, Target> {
    if map.value.0.is_empty() {
        let help = "add one, like `routes: { /: frontend }`";
        mistakes.add(map.title, "no path is routed, so nothing would answer", help);
    }
    let mut routes = BTreeMap::new();
    for (key, route) in map.value.iter() {
        let service = route.service();
        if let Err((message, help)) = prefix(&key.text) {
            mistakes.add(key.extent, message, help);
        }
        if let Err((message, help)) = target(&service.value, services, names) {
            mistakes.add(service.extent, message, help);
        }
        if let Ok(service) = ServiceName::new(service.value.as_str()) {
            let target = Target { service, max_body: route.max_body() };
            routes.insert(key.text.clone(), target);
        }
    }
    routes
}

/// What is wrong and the way out.
type Wrong = (String, String);

fn prefix(text: &str) -> Result<(), Wrong> {
    let wrong = |message: String, help: String| Err((message, help));
    let Some(rest) = text.strip_prefix('/') else {
        return wrong(
            format!("the route `{text}` does not begin with `/`"),
            format!("write `/{text}`"),
        );
    };
    if text.len() > 1 && text.ends_with('/') {
        let plain = text.trim_end_matches('/');
        let plain = if plain.is_empty() { "/" } else { plain };
        let help = format!("write `{plain}`: it covers everything below it too");
        return wrong(format!("the route `{text}` ends with `/`"), help);
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "*?#\\".contains(c);
    if text.contains(odd)
        || rest.split('/').any(|part| part == "." || part == "..")
        || text.contains("//")
    {
        let help = "write a plain prefix, like `/api`; it covers whole path segments";
        return wrong(format!("`{text}` is not a path prefix"), help.into());
    }
    Ok(())
}

fn target(name: &str, services: &Map<compose::Service>, names: Names<'_>) -> Result<(), Wrong> {
    if !services.has(name) {
        return Err((format!("there is no service `{name}` to route to"), no_service(name, names)));
    }
    let built = |service: &compose::Service| service.build.is_some();
    if services.get(name).is_some_and(|service| !built(service) && service.image.is_some()) {
        let ours: Vec<&str> =
            services.iter().filter(|(_, s)| built(s)).map(|(key, _)| key.text.as_str()).collect();
        let help = format!("route to a service with `build`: {}", listed(ours));
        return Err((
            format!("`{name}` is a backing service, requests cannot be routed to it"),
            help,
        ));
    }
    Ok(())
}
