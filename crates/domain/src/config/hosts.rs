//! Checks host names: what is one, and that each belongs to one environment.

use std::collections::BTreeMap;

use super::file;
use super::mistake::{Extent, Mistakes};
use super::project::Environment;
use super::reader::{At, Map};
use crate::AppName;

/// A host name as the file says it; a mistake if it is none.
pub(super) fn checked(host: &At<String>, mistakes: &mut Mistakes<'_>) -> String {
    let label = |label: &str| AppName::new(label).is_ok();
    // The preview host puts `preview-` before the first label.
    let fits =
        host.value.split('.').next().is_some_and(|first| first.len() <= 63 - "preview-".len());
    if host.value.len() > 253 || !host.value.split('.').all(label) || !fits {
        let message = format!("`{}` is not a host name", host.value);
        let help = "write the name alone, in lower case, without port or `https://`, like `shop.example.com`; \
             its first part has at most 55 characters";
        mistakes.add(host.extent, message, help);
    }
    host.value.clone()
}

/// Every host, further names and preview hosts included, belongs to one environment.
pub(super) fn distinct(
    map: &Map<file::Environment>,
    read: &[Environment],
    mistakes: &mut Mistakes<'_>,
) {
    let previews: BTreeMap<String, &Environment> =
        read.iter().map(|environment| (environment.preview_host(), environment)).collect();
    let mut taken: BTreeMap<&str, &Environment> = BTreeMap::new();
    for environment in read {
        for (n, host) in environment.hosts().enumerate() {
            if let Some(other) = previews.get(host) {
                let message = format!("`{host}` is kept for the idle slot of `{}`", other.name);
                let help = "choose another name: `preview-` before a host reaches the slot that is not live";
                mistakes.add(place(map, environment, n), message, help);
            }
            let Some(other) = taken.insert(host, environment) else { continue };
            let (message, help) = if std::ptr::eq(other, environment) {
                (format!("`{host}` is here already"), "name each host once")
            } else {
                let what = if other.host == host { "the host" } else { "a name" };
                let message = format!("`{host}` is {what} of `{}` already", other.name);
                (message, "give each environment a host of its own")
            };
            mistakes.add(place(map, environment, n), message, help);
        }
    }
}

/// Where the `n`th of the hosts stands: the first is `host`, which may be left out.
fn place(map: &Map<file::Environment>, environment: &Environment, n: usize) -> Extent {
    let entry = map.iter().find(|(key, _)| key.text == environment.name.as_str());
    let Some((key, file)) = entry else { return Extent::default() };
    let written: Option<&At<String>> = match n.checked_sub(1) {
        None => file.host.as_ref(),
        Some(n) => file.names.iter().flatten().nth(n),
    };
    written.map_or(key.extent, |host| host.extent)
}
