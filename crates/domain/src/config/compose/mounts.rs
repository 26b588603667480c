//! What is mounted into a container: `volumes` in short and long syntax, and `tmpfs`.

use std::path::{Path, PathBuf};

use crate::config::mistake::Mistakes;
use crate::config::reader::{Any, At, FromNode, foreign_mapping, wrong};
use crate::config::yaml::{Node, Value};
use crate::container::{Mount, Source};

use super::scalars::{Bytes, Mode, Text, Truth, bytes, mode, text_of};

/// One entry of `volumes`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Volume {
    pub mount: Mount,
    /// An option that means something on machines with SELinux only, and is not done.
    pub relabels: bool,
}

foreign_mapping! {
    /// The long syntax.
    LongVolume, "a volume" {
        "type" kind: At<Text>,
        "source" source: Option<At<Text>>,
        "target" target: At<Text>,
        "read_only" read_only: Option<Truth>,
        "bind" bind: Option<Bind>,
        "volume" volume: Option<Named>,
        "tmpfs" tmpfs: Option<Tmpfs>,
        "consistency" consistency: Option<Any>,
    }
    allow { "x-" }
}

foreign_mapping! {
    /// Options of a bind mount.
    Bind, "`bind`" {
        "create_host_path" create: Option<At<Truth>>,
        "selinux" selinux: Option<Any>,
    }
    allow { "x-" }
    refuse {
        "propagation" => "remove it: mounts of the machine are not passed on",
        "recursive" => "remove it",
    }
}

foreign_mapping! {
    /// Options of a named volume.
    Named, "`volume`" {
        "nocopy" nocopy: Option<At<Truth>>,
    }
    allow { "x-" }
    refuse {
        "subpath" => "mount the whole volume, or make one of its own",
        "labels" => "remove it: Launchway labels volumes itself",
    }
}

foreign_mapping! {
    /// Options of a folder in memory.
    Tmpfs, "`tmpfs`" {
        "size" size: Option<Bytes>,
        "mode" mode: Option<Mode>,
    }
    allow { "x-" }
}

/// What is wrong and the way out.
type Wrong = (String, String);

const SHORT: &str =
    "write it like `data:/var/lib/data`, `./config:/etc/app:ro` or `/path/in/the/container`";

impl FromNode for Volume {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        if let Value::Map(_) = node.value {
            let read = LongVolume::read(node, mistakes)?;
            return long(&read, mistakes);
        }
        let Some(text) = text_of(node) else {
            wrong(node, mistakes, "a volume", SHORT);
            return None;
        };
        match short(&text) {
            Ok(volume) => Some(volume),
            Err((message, help)) => {
                mistakes.add(node.extent, message, help);
                None
            }
        }
    }
}

/// `[source:]target[:options]`.
pub(super) fn short(text: &str) -> Result<Volume, Wrong> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err((format!("`{text}` is not a volume"), SHORT.into())),
    };
    let mut volume = Volume {
        mount: Mount {
            source: source.map_or(Ok(Source::Anonymous), |source| outside(source, text))?,
            target: inside(target, text)?,
            read_only: false,
        },
        relabels: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => volume.mount.read_only = true,
            // What Docker does anyway, or what only other systems do.
            "rw" | "cached" | "delegated" | "consistent" | "rprivate" => {}
            "z" | "Z" => volume.relabels = true,
            _ => {
                let message =
                    format!("the option `{option}` of the volume `{text}` is not supported");
                return Err((message, "`ro` is, and `rw`; remove the others".into()));
            }
        }
    }
    Ok(volume)
}

/// A path of the machine, or the name of a volume.
fn outside(source: &str, text: &str) -> Result<Source, Wrong> {
    match source.chars().next() {
        None => Err((format!("`{text}` mounts nothing"), SHORT.into())),
        Some('/') => Ok(Source::Host(PathBuf::from(source))),
        Some('.' | '~') => Ok(Source::Project(tidy(source))),
        Some(_) => named(source),
    }
}

/// The path in one spelling; `..` that leads out of the project stays at its beginning.
pub(super) fn tidy(path: &str) -> PathBuf {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.iter().collect()
}

fn named(name: &str) -> Result<Source, Wrong> {
    let part = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if name.bytes().all(part) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(Source::Volume(name.into()));
    }
    let help = format!(
        "write `./{name}` for a folder of the project, or a name of letters, digits, `_`, `.` and `-`"
    );
    Err((format!("`{name}` is not the name of a volume"), help))
}

fn inside(target: &str, text: &str) -> Result<String, Wrong> {
    if Path::new(target).is_absolute() && target != "/" {
        let plain = target.trim_end_matches('/');
        return Ok(plain.into());
    }
    let message = format!("`{text}` is mounted at `{target}`, which is no path in the container");
    Err((message, "write the path in the container from its `/` on".into()))
}

fn long(read: &LongVolume, mistakes: &mut Mistakes<'_>) -> Option<Volume> {
    let source = read.source.as_ref().map(|at| at.value.0.as_str()).filter(|text| !text.is_empty());
    let title = read.kind.extent;
    let mut refuse = |message: String, help: &str| {
        mistakes.add(title, message, help);
        None
    };
    let kept = match (read.kind.value.0.as_str(), source) {
        ("volume", None) => Ok(Source::Anonymous),
        ("volume", Some(name)) => named(name),
        ("bind", Some(path)) if path.starts_with('/') => Ok(Source::Host(path.into())),
        ("bind", Some(path)) => Ok(Source::Project(tidy(path))),
        ("bind", None) => {
            return refuse("this mount has no `source`".into(), "add `source: ./folder`");
        }
        ("tmpfs", None) => {
            let options = read.tmpfs.as_ref();
            let size = options.and_then(|options| Some(options.size?.0));
            let mode = options.and_then(|options| Some(options.mode?.0));
            Ok(Source::Tmpfs { size, mode })
        }
        ("tmpfs", Some(_)) => {
            return refuse("memory has no `source`".into(), "remove `source`");
        }
        (kind, _) => {
            let message = format!("volumes of the type `{kind}` are not supported");
            return refuse(message, "use `volume`, `bind` or `tmpfs`");
        }
    };
    if read.bind.as_ref().and_then(|bind| bind.create.as_ref()).is_some_and(|at| !at.value.0) {
        return refuse(
            "`create_host_path: false` is not supported".into(),
            "remove it, and see to it that the folder is there",
        );
    }
    if read.volume.as_ref().and_then(|v| v.nocopy.as_ref()).is_some_and(|at| at.value.0) {
        return refuse(
            "`nocopy` is not supported".into(),
            "remove it: an empty volume begins with what the image has there",
        );
    }
    let target = inside(&read.target.value.0, &read.target.value.0);
    let (kept, target) = match (kept, target) {
        (Ok(kept), Ok(target)) => (kept, target),
        (Err((message, help)), _) => return refuse(message, &help),
        (_, Err((message, help))) => return refuse(message, &help),
    };
    let read_only = read.read_only.is_some_and(|truth| truth.0);
    let relabels = read.bind.as_ref().is_some_and(|bind| bind.selinux.is_some());
    Some(Volume { mount: Mount { source: kept, target, read_only }, relabels })
}

/// An entry of `tmpfs`: `/run`, or `/run:size=64m,mode=1777`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Memory(pub Mount);

impl FromNode for Memory {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        const HELP: &str = "write it like `/run` or `/run:size=64m,mode=1777`";
        let Some(text) = text_of(node) else {
            wrong(node, mistakes, "a path in the container", HELP);
            return None;
        };
        match memory(&text) {
            Ok(mount) => Some(Self(mount)),
            Err((message, help)) => {
                mistakes.add(node.extent, message, help);
                None
            }
        }
    }
}

fn memory(text: &str) -> Result<Mount, Wrong> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size, mut bits) = (None, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", text)) if bytes(text).is_some() => size = bytes(text),
            Some(("mode", text)) if mode(text).is_some() => bits = mode(text),
            // As Docker mounts memory anyway.
            None if ["rw", "noexec", "nosuid", "nodev"].contains(&option) => {}
            _ => {
                let message =
                    format!("the option `{option}` of `{path}` in memory is not supported");
                return Err((message, "`size=64m` and `mode=1777` are; remove the others".into()));
            }
        }
    }
    let target = inside(path, text)?;
    Ok(Mount { source: Source::Tmpfs { size, mode: bits }, target, read_only: false })
}
