//! Who the client is: what we see of the connection, and what proxies in front of us say, if they are believed.
//!
//! A proxy that the operator listed is believed; anybody else's claims are replaced. X-Forwarded-For is
//! believed before Forwarded (RFC 7239): a proxy that writes the one may well pass the other on as its client
//! made it up. The field that was not believed is written anew, so that the two never contradict each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

/// The networks of the proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Trusted(Arc<[IpNet]>);

/// What a client connection adds to each of its requests, made once.
pub struct Client {
    peer: IpAddr,
    /// The proxies that are believed, if the peer is one of them.
    trusted: Option<Trusted>,
    secure: bool,
    /// The peer as a node of Forwarded (RFC 7239, section 6).
    node: String,
}

/// The claims of one request, in the order in which they came.
#[derive(Debug, Default)]
pub struct Claims<'a> {
    addresses: Vec<&'a [u8]>,
    forwarded: Vec<&'a [u8]>,
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    /// A field that may stand once came twice: neither is believed.
    unclear: bool,
}

/// A field that claims something about the client and is written anew for every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    Address,
    Forwarded,
    Proto,
    Host,
}

/// The values to write for one request.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub address: String,
    pub forwarded: String,
    pub proto: &'static str,
    pub host: String,
}

impl Trusted {
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().map(canonical).collect())
    }

    /// Whether `address` is listed. An IPv4 address is the same when it is written as an IPv6 one.
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// `::ffff:10.0.0.0/104` means `10.0.0.0/8`.
fn canonical(network: &IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return *network };
    let (Some(v4), Some(length)) = (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
    else {
        return *network;
    };
    Ipv4Net::new(v4, length).map_or(*network, IpNet::V4)
}

impl Client {
    /// The client that connected from `peer`; `secure` if over TLS.
    pub fn new(peer: IpAddr, secure: bool, trusted: &Trusted) -> Self {
        let peer = peer.to_canonical();
        let trusted = trusted.covers(peer).then(|| trusted.clone());
        Self { peer, trusted, secure, node: node(peer) }
    }

    /// Whether what this client says about others is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted.is_some()
    }

    /// The scheme by which the client reached us.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Whether the request set out over HTTPS, as far as we see or are told by somebody whom we believe.
    pub fn came_by_https(&self, claims: &Claims<'_>) -> bool {
        let claimed = || claims.proto().is_some_and(|proto| proto == "https");
        self.secure || (self.is_trusted() && claimed())
    }

    /// The peer as X-Forwarded-For has it: without what a node puts around an IPv6 address.
    fn bare(&self) -> &str {
        self.node.trim_matches(['"', '[', ']'])
    }

    /// Where the request comes from: the last address on its way that is no trusted proxy.
    pub fn address(&self, claims: &Claims<'_>) -> IpAddr {
        let Some(trusted) = &self.trusted else { return self.peer };
        let mut client = self.peer;
        for hop in claims.hops().into_iter().rev() {
            // What stands before a node without an address was said by we know not whom.
            let Some(address) = hop else { break };
            client = address;
            if !trusted.covers(address) {
                break;
            }
        }
        client
    }

    /// The values of the forwarded fields of a request to `host`.
    pub fn written(&self, claims: &Claims<'_>, host: &str) -> Written {
        let nothing = Claims::default();
        let claims = if self.is_trusted() { claims } else { &nothing };
        let mut address = String::new();
        for hop in claims.hops() {
            match hop {
                Some(hop) => address.push_str(&hop.to_string()),
                None => address.push_str("unknown"),
            }
            address.push_str(", ");
        }
        address.push_str(self.bare());
        let mut forwarded = claims.forwarded();
        forwarded.push_str("for=");
        forwarded.push_str(&self.node);
        push_quoted(&mut forwarded, ";host=", host);
        forwarded.push_str(";proto=");
        forwarded.push_str(self.scheme());
        let proto = claims.proto().unwrap_or(self.scheme());
        let host = claims.host().unwrap_or_else(|| host.to_owned());
        Written { address, forwarded, proto, host }
    }

    /// Writes the forwarded fields of a request to `host` as lines of a head.
    pub fn write(&self, claims: &Claims<'_>, host: &[u8], into: &mut Vec<u8>) {
        if self.is_trusted() {
            let written = self.written(claims, &String::from_utf8_lossy(host));
            let values = [
                ("x-forwarded-for: ", written.address.as_bytes()),
                ("\r\nx-forwarded-proto: ", written.proto.as_bytes()),
                ("\r\nforwarded: ", written.forwarded.as_bytes()),
                ("\r\nx-forwarded-host: ", written.host.as_bytes()),
                ("\r\n", b""),
            ];
            for (name, value) in values {
                into.extend_from_slice(name.as_bytes());
                into.extend_from_slice(value);
            }
            return;
        }
        let parts: [&[u8]; 11] = [
            b"x-forwarded-for: ",
            self.bare().as_bytes(),
            b"\r\nx-forwarded-proto: ",
            self.scheme().as_bytes(),
            b"\r\nx-forwarded-host: ",
            host,
            b"\r\nforwarded: for=",
            self.node.as_bytes(),
            b";host=\"",
            host,
            if self.secure { b"\";proto=https\r\n" } else { b"\";proto=http\r\n" },
        ];
        for part in parts {
            into.extend_from_slice(part);
        }
    }
}

impl<'a> Claims<'a> {
    /// Takes note of a field.
    pub fn add(&mut self, claim: Claim, value: &'a [u8]) {
        match claim {
            Claim::Address => self.addresses.push(value),
            Claim::Forwarded => self.forwarded.push(value),
            Claim::Proto => self.unclear |= self.proto.replace(value).is_some(),
            Claim::Host => self.unclear |= self.host.replace(value).is_some(),
        }
    }

    /// The nodes before our peer, the client's first: `None` where one is not known by its address.
    fn hops(&self) -> Vec<Option<IpAddr>> {
        if self.addresses.is_empty() {
            let elements = self.elements().unwrap_or_default();
            return elements.into_iter().map(|element| element.node).collect();
        }
        let nodes = self.addresses.iter().flat_map(|value| value.split(|b| *b == b','));
        let nodes = nodes.map(<[u8]>::trim_ascii).filter(|node| !node.is_empty());
        nodes.map(|node| std::str::from_utf8(node).ok().and_then(address)).collect()
    }

    /// The elements of Forwarded; `None` if any of it is not as RFC 7239 wants it.
    fn elements(&self) -> Option<Vec<Element>> {
        let mut elements = Vec::new();
        for value in &self.forwarded {
            elements.extend(parse(std::str::from_utf8(value).ok()?)?);
        }
        Some(elements)
    }

    /// What stands before our own element of Forwarded.
    fn forwarded(&self) -> String {
        let mut text = String::new();
        let elements = match self.addresses.is_empty() {
            true => self.elements().unwrap_or_default(),
            false => Vec::new(),
        };
        if !elements.is_empty() {
            for value in &self.forwarded {
                text.push_str(&String::from_utf8_lossy(value));
                text.push_str(", ");
            }
            return text;
        }
        for hop in self.hops() {
            text.push_str("for=");
            text.push_str(&hop.map_or("unknown".into(), node));
            text.push_str(", ");
        }
        text
    }

    fn proto(&self) -> Option<&'static str> {
        let last = || self.believed_element().and_then(|element| element.proto);
        match self.proto {
            _ if self.unclear => None,
            Some(proto) => scheme(proto),
            None => last(),
        }
    }

    fn host(&self) -> Option<String> {
        let last = || self.believed_element().and_then(|element| element.host);
        let said = match self.host {
            _ if self.unclear => None,
            Some(host) => std::str::from_utf8(host).ok().map(str::to_owned),
            None => last(),
        };
        said.filter(|host| is_host(host))
    }

    /// The element that our peer itself wrote.
    fn believed_element(&self) -> Option<Element> {
        if self.addresses.is_empty() { self.elements()?.pop() } else { None }
    }
}

/// One element of Forwarded, as far as it matters.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    node: Option<IpAddr>,
    proto: Option<&'static str>,
    host: Option<String>,
}

/// `for=192.0.2.60;proto=http, for="[2001:db8::1]:80"` (RFC 7239, section 4).
fn parse(value: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut element = Element::default();
    let mut rest = value.trim_matches([' ', '\t']);
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = token_or_quoted(after)?;
        match name.to_ascii_lowercase().as_str() {
            "for" => element.node = address(&value),
            "proto" => element.proto = scheme(value.as_bytes()),
            "host" => element.host = Some(value),
            name if !name.is_empty() && name.bytes().all(is_token) => {}
            _ => return None,
        }
        let after = after.trim_start_matches([' ', '\t']);
        let Some(separator) = after.chars().next() else { break };
        if separator == ',' {
            elements.push(std::mem::take(&mut element));
        } else if separator != ';' {
            return None;
        }
        rest = after[1..].trim_start_matches([' ', '\t']);
    }
    elements.push(element);
    Some(elements)
}

/// The value at the start of `text`, without its quotes, and what follows.
fn token_or_quoted(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.bytes().position(|b| !is_token(b)).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// The address of a node: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(node: &str) -> Option<IpAddr> {
    let bare = node.strip_prefix('[').and_then(|node| node.strip_suffix(']')).unwrap_or(node);
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| node.parse::<SocketAddr>().ok().map(|at| at.ip()));
    address.map(|address| address.to_canonical())
}

/// An address as Forwarded spells it: an IPv6 one in brackets, which only a quoted value may hold.
fn node(address: IpAddr) -> String {
    let IpAddr::V4(v4) = address else { return format!("\"[{address}]\"") };
    // Every new connection pays for this. `Display` says the same, at ten times the instructions.
    let mut text = String::with_capacity("255.255.255.255".len());
    let mut digits = itoa::Buffer::new();
    for octet in v4.octets() {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(digits.format(octet));
    }
    text
}

fn scheme(said: &[u8]) -> Option<&'static str> {
    let known = ["http", "https"];
    known.into_iter().find(|scheme| said.trim_ascii().eq_ignore_ascii_case(scheme.as_bytes()))
}

fn push_quoted(into: &mut String, name: &str, value: &str) {
    into.push_str(name);
    into.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            into.push('\\');
        }
        into.push(c);
    }
    into.push('"');
}

fn is_host(host: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    (1..=255).contains(&host.len()) && host.bytes().all(allowed)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Trusted {
        Trusted::new(&["10.0.0.0/8".parse().unwrap(), "::ffff:192.168.0.0/112".parse().unwrap()])
    }

    fn proxied() -> Client {
        Client::new("::ffff:10.0.0.1".parse().unwrap(), false, &trusted())
    }

    fn claims<'a>(fields: &[(Claim, &'a str)]) -> Claims<'a> {
        let mut claims = Claims::default();
        for (claim, value) in fields {
            claims.add(*claim, value.as_bytes());
        }
        claims
    }

    #[test]
    fn a_node_is_its_address_and_one_of_ipv6_is_in_brackets() {
        for v4 in ["0.0.0.0", "10.0.0.1", "127.0.0.1", "192.168.100.9", "255.255.255.255"] {
            assert_eq!(node(v4.parse().unwrap()), v4);
        }
        assert_eq!(node("2001:db8::1".parse().unwrap()), "\"[2001:db8::1]\"");
    }

    #[test]
    fn an_ipv4_address_is_the_same_in_either_spelling() {
        let trusted = trusted();
        for listed in ["10.1.2.3", "::ffff:10.1.2.3", "192.168.7.7", "::ffff:192.168.7.7"] {
            assert!(trusted.covers(listed.parse().unwrap()), "{listed}");
        }
        for other in ["11.0.0.1", "::1", "::ffff:11.0.0.1", "::a00:1"] {
            assert!(!trusted.covers(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_no_trusted_proxy_has() {
        for (list, client) in [
            ("6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
            ("1.2.3.4:5555, 192.168.0.4", "1.2.3.4"),
            ("6.6.6.6, [2001:db8::1]:80", "2001:db8::1"),
            ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
            ("6.6.6.6, unknown, 10.0.0.8", "10.0.0.8"),
            ("6.6.6.6, <script>", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let said = claims(&[(Claim::Address, list)]);
            assert_eq!(proxied().address(&said).to_string(), client, "{list}");
        }
        let stranger = Client::new("1.1.1.1".parse().unwrap(), false, &trusted());
        let said = claims(&[(Claim::Address, "6.6.6.6")]);
        assert_eq!(stranger.address(&said).to_string(), "1.1.1.1");
    }

    #[test]
    fn a_trusted_proxys_list_is_extended_and_the_other_field_follows_it() {
        let said = claims(&[
            (Claim::Address, "1.2.3.4"),
            (Claim::Forwarded, "for=6.6.6.6;proto=ftp"),
            (Claim::Proto, "HTTPS"),
            (Claim::Host, "tea.example"),
        ]);
        let written = proxied().written(&said, "inner:80");
        assert_eq!(written.address, "1.2.3.4, 10.0.0.1");
        assert_eq!(written.forwarded, "for=1.2.3.4, for=10.0.0.1;host=\"inner:80\";proto=http");
        assert_eq!((written.proto, written.host.as_str()), ("https", "tea.example"));
    }

    #[test]
    fn forwarded_alone_is_believed_as_it_stands() {
        let value =
            "for=\"[2001:db8::1]:80\";proto=https;by=_x, For=10.0.0.4;Host=\"a.b\";proto=https";
        let written = proxied().written(&claims(&[(Claim::Forwarded, value)]), "tea");
        assert_eq!(written.address, "2001:db8::1, 10.0.0.4, 10.0.0.1");
        assert_eq!(written.forwarded, format!("{value}, for=10.0.0.1;host=\"tea\";proto=http"));
        assert_eq!((written.proto, written.host.as_str()), ("https", "a.b"));
    }

    #[test]
    fn a_claim_that_is_odd_is_not_believed() {
        for odd in ["for=\"1.2.3.4", "for", "=1.2.3.4", "for=1.2.3.4 x", "for=", "for=1.2.3.4;;"] {
            let written = proxied().written(&claims(&[(Claim::Forwarded, odd)]), "tea");
            assert_eq!(written.address, "10.0.0.1", "{odd}");
            assert_eq!(written.forwarded, "for=10.0.0.1;host=\"tea\";proto=http", "{odd}");
        }
        let twice = claims(&[(Claim::Proto, "https"), (Claim::Proto, "https")]);
        assert_eq!(proxied().written(&twice, "tea").proto, "http");
        let script = claims(&[(Claim::Host, "a\" onload"), (Claim::Proto, "gopher")]);
        let written = proxied().written(&script, "tea");
        assert_eq!((written.proto, written.host.as_str()), ("http", "tea"));
    }

    #[test]
    fn the_lines_of_a_head_say_the_same_as_the_values() {
        let said = claims(&[(Claim::Address, "6.6.6.6"), (Claim::Proto, "https")]);
        for client in [
            proxied(),
            Client::new("::1".parse().unwrap(), true, &trusted()),
            Client::new("1.2.3.4".parse().unwrap(), false, &Trusted::default()),
        ] {
            let mut lines = Vec::new();
            client.write(&said, b"tea:80", &mut lines);
            let lines = String::from_utf8(lines).unwrap();
            let written = client.written(&said, "tea:80");
            let mut expected = [
                format!("x-forwarded-for: {}\r\n", written.address),
                format!("x-forwarded-proto: {}\r\n", written.proto),
                format!("x-forwarded-host: {}\r\n", written.host),
                format!("forwarded: {}\r\n", written.forwarded),
            ];
            let mut got: Vec<&str> = lines.split_inclusive("\r\n").collect();
            expected.sort();
            got.sort_unstable();
            assert_eq!(got, expected);
        }
    }
}
