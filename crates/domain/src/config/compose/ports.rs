//! Published ports, in Compose's short and long syntax.

use std::net::IpAddr;

use crate::config::mistake::Mistakes;
use crate::config::reader::{Any, At, FromNode, foreign_mapping};
use crate::config::yaml::{Node, Value};
use crate::container::{Port, Protocol};

use super::scalars::{Text, text_of, wrong_value};

/// One entry of `ports`: several if it says a range.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Ports(pub Vec<Port>);

foreign_mapping! {
    /// The long syntax.
    LongPort, "a port" {
        "target" target: At<Text>,
        "published" published: Option<At<Text>>,
        "host_ip" host_ip: Option<At<Text>>,
        "protocol" protocol: Option<At<Text>>,
        "mode" mode: Option<At<Text>>,
        "name" name: Option<Any>,
        "app_protocol" app_protocol: Option<Any>,
    }
    allow { "x-" }
}

/// What is wrong and the way out.
type Wrong = (String, String);

const SHORT: &str = "write it like `8080:80`, `127.0.0.1:8080:80` or `53:53/udp`";

/// Published ports that stand for any free one.
const FREE: [&str; 2] = ["", "0"];

impl FromNode for Ports {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let ports = match &node.value {
            Value::Map(_) => long(&LongPort::read(node, mistakes)?),
            _ => match text_of(node) {
                Some(text) => short(&text),
                None => {
                    wrong_value(node, mistakes, "a port", SHORT);
                    return None;
                }
            },
        };
        match ports {
            Ok(ports) => Some(Self(ports)),
            Err((message, help)) => {
                mistakes.add(node.extent, message, help);
                None
            }
        }
    }
}

/// `[[address:]published:]target[/protocol]`, where both sides may be ranges of the same length.
pub(super) fn short(text: &str) -> Result<Vec<Port>, Wrong> {
    let wrong = || (format!("`{text}` is not a port"), SHORT.to_owned());
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = self::protocol(protocol)?;
    let (outside, target) = match rest.rsplit_once(':') {
        Some((outside, target)) => (Some(outside), target),
        None => (None, rest),
    };
    let (host, published) = match outside {
        None => (None, None),
        Some(outside) => match outside.rsplit_once(':') {
            Some((host, published)) => (Some(address(host)?), Some(published)),
            None => (None, Some(outside)),
        },
    };
    let target = range(target).ok_or_else(wrong)?;
    let published = match published.filter(|text| !FREE.contains(text)) {
        Some(text) => Some(range(text).ok_or_else(wrong)?),
        None => None,
    };
    ports(host, published, target, protocol, text)
}

fn long(port: &LongPort) -> Result<Vec<Port>, Wrong> {
    let protocol = port.protocol.as_ref().map_or(Ok(Protocol::Tcp), |at| protocol(&at.value.0))?;
    let host = port.host_ip.as_ref().filter(|at| !at.value.0.is_empty());
    let host = host.map(|at| address(&at.value.0)).transpose()?;
    let number = |at: &At<Text>| {
        range(&at.value.0).ok_or_else(|| {
            (format!("`{}` is not a port", at.value.0), "write a number from 1 to 65535".to_owned())
        })
    };
    let published = port.published.as_ref().filter(|at| !FREE.contains(&at.value.0.as_str()));
    let published = published.map(number).transpose()?;
    if let Some(mode) = &port.mode
        && !["host", "ingress"].contains(&mode.value.0.as_str())
    {
        let message = format!("`mode` cannot be `{}`", mode.value.0);
        return Err((message, "write `host` or `ingress`, or leave it out".into()));
    }
    ports(host, published, number(&port.target)?, protocol, &port.target.value.0)
}

fn ports(
    host: Option<IpAddr>,
    published: Option<(u16, u16)>,
    target: (u16, u16),
    protocol: Protocol,
    text: &str,
) -> Result<Vec<Port>, Wrong> {
    if let Some((first, last)) = published
        && last - first != target.1 - target.0
    {
        let message = format!("the two ranges of `{text}` are not of the same length");
        return Err((message, "write a published port for each port of the container".into()));
    }
    let port = |target: u16, n: u16| Port {
        host,
        published: published.map(|(first, _)| first + n),
        target,
        protocol,
    };
    Ok((target.0..=target.1).zip(0..).map(|(target, n)| port(target, n)).collect())
}

/// `80` or `80-90`; a port 0 is none.
pub(super) fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| digits && *port > 0)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

fn address(text: &str) -> Result<IpAddr, Wrong> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    plain.parse().map_err(|_| {
        let help = "write an address of the machine, like `127.0.0.1` or `[::1]`";
        (format!("`{text}` is not an IP address"), help.to_owned())
    })
}

/// `tcp` or `udp`.
pub(super) fn protocol(text: &str) -> Result<Protocol, Wrong> {
    match text.to_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err((format!("the protocol `{text}` is not supported"), "use `tcp` or `udp`".into())),
    }
}

/// A port of `expose`: `3000`, `"3000-3005"`, `"53/udp"`.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::config) struct Exposed(pub Vec<u16>);

impl FromNode for Exposed {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        let text = text_of(node).unwrap_or_default();
        let (number, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
        let range = range(number).filter(|_| self::protocol(protocol).is_ok());
        if range.is_none() {
            wrong_value(node, mistakes, "a port", "write it like `3000` or `\"3000-3005\"`");
        }
        range.map(|(first, last)| Self((first..=last).collect()))
    }
}
