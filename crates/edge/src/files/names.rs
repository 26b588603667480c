//! From a request's path to a file's name, and what a name says.

use http::HeaderValue;

use crate::strict::hex_byte;

/// The encodings that a client takes, of those that files are compressed with beforehand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encodings {
    pub br: bool,
    pub gzip: bool,
}

/// The name of a file relative to its folder; `None` if the path cannot be one.
pub fn file_name(prefix: &str, path: &str) -> Option<String> {
    let rest = if prefix == "/" { path } else { path.strip_prefix(prefix)? };
    let name = rest.strip_prefix('/').unwrap_or(rest);
    if name.is_empty() {
        return Some(String::new());
    }
    let name = decode(name)?;
    let closed = name.strip_suffix('/').unwrap_or(&name);
    closed.split('/').all(is_plain).then_some(name)
}

/// Hidden files are not for the public, except those that are meant to be found.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty()
        && (!segment.starts_with('.') || segment == ".well-known")
        && !segment.contains(['\\', '\0'])
}

/// An encoded separator would make two segments out of one behind the router's back.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let byte = hex_byte(after).filter(|b| !matches!(b, b'/' | b'\\' | 0))?;
        bytes.push(byte);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Whether a file's name changes with its content: under `assets/`, with a hash as build tools write it
/// (`index-BX3k2a9_.js`). A hash is told from a word by a digit or a capital letter in it.
pub fn says_its_content(name: &str) -> bool {
    let under_assets = name.starts_with("assets/") || name.contains("/assets/");
    let file = name.rsplit('/').next().unwrap_or_default();
    let Some((stem, _)) = file.split_once('.').filter(|_| under_assets) else { return false };
    let hashed = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let telling = |b: u8| b.is_ascii_digit() || b.is_ascii_uppercase();
        part.len() >= 8 && part.bytes().all(allowed) && part.bytes().any(telling)
    };
    let in_stem = stem.char_indices().any(|(at, c)| c == '-' && hashed(&stem[at + 1..]));
    in_stem || file.split('.').skip(1).any(hashed)
}

/// Whether a path may stand for a page: its last segment has no extension.
pub fn is_page(name: &str) -> bool {
    !name.rsplit('/').next().unwrap_or_default().contains('.')
}

/// What the client takes; `q=0` is a refusal.
pub fn encodings(accept: Option<&HeaderValue>) -> Encodings {
    let accept = accept.and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let quality = |name: &str| {
        let of = |part: &str| {
            let (coding, parameter) = part.split_once(';').unwrap_or((part, "q=1"));
            let (key, value) = parameter.trim().split_once('=')?;
            let named =
                coding.trim().eq_ignore_ascii_case(name) && key.trim().eq_ignore_ascii_case("q");
            named.then(|| value.trim().parse::<f32>().unwrap_or(0.0))
        };
        accept.split(',').find_map(of)
    };
    // What is not named is as welcome as `*` (RFC 9110, section 12.5.3).
    let rest = quality("*").unwrap_or(0.0);
    let (br, gzip) = (quality("br").unwrap_or(rest), quality("gzip").unwrap_or(rest));
    Encodings { br: br > 0.0 && br >= gzip, gzip: gzip > 0.0 }
}

pub fn content_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_out_of_the_folder_is_no_file_name() {
        for path in [
            "/../etc/passwd",
            "/a/../../b",
            "/..%2fetc",
            "/%2e%2e/etc",
            "/a%5c..%5cb",
            "//etc/passwd",
            "/a//b",
            "/.env",
            "/a%00b",
            "/%ff",
            "/a%2",
        ] {
            assert_eq!(file_name("/", path), None, "{path}");
        }
        assert_eq!(file_name("/", "/a/b%20c").as_deref(), Some("a/b c"));
        assert_eq!(file_name("/admin", "/admin/x").as_deref(), Some("x"));
        assert_eq!(file_name("/admin", "/admin").as_deref(), Some(""));
    }

    #[test]
    fn a_hash_in_a_name_is_told_from_a_word() {
        assert!(says_its_content("assets/index-BX3k2a9_.js"));
        assert!(says_its_content("assets/main.3f2a91bc.css"));
        assert!(!says_its_content("assets/hero-background.png"));
        assert!(!says_its_content("index-BX3k2a9_.js"));
    }
}
