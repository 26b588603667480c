//! Finds the longest prefix of whole segments that covers a path, in one pass over the path however many
//! prefixes there are, and without allocating.
//!
//! The pass hashes byte by byte; at each end of a segment the hash of what was read so far is looked up. It
//! ends where no prefix is longer.

/// Prefixes, each with the number it was given by its place.
#[derive(Default)]
pub struct Prefixes {
    /// Places of entries plus one, by hash; 0 is free. A power of two of them, half of them free.
    cells: Box<[u32]>,
    entries: Box<[Entry]>,
    /// `/` covers every path.
    root: Option<usize>,
    longest: usize,
}

struct Entry {
    prefix: Box<str>,
    hash: u64,
    place: usize,
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits. The table's author chooses what is hashed into it, not a client: a
/// client that finds collisions makes nothing slower.
const START: u64 = 0xcbf2_9ce4_8422_2325;

const fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

impl Prefixes {
    /// Of two equal prefixes the later one counts.
    pub fn new<'a>(prefixes: impl Iterator<Item = &'a str>) -> Self {
        let mut made = Self::default();
        let mut entries = Vec::new();
        for (place, prefix) in prefixes.enumerate() {
            if prefix == "/" {
                made.root = Some(place);
                continue;
            }
            made.longest = made.longest.max(prefix.len());
            entries.push(Entry {
                prefix: prefix.into(),
                hash: prefix.bytes().fold(START, step),
                place,
            });
        }
        made.cells = vec![0; (2 * entries.len()).next_power_of_two()].into();
        made.entries = entries.into();
        for at in (0..made.entries.len()).rev() {
            let entry = &made.entries[at];
            if let Err(free) = made.cell(entry.hash, &entry.prefix) {
                made.cells[free] = at as u32 + 1;
            }
        }
        made
    }

    /// The entry for `text`, or the free cell where it would stand.
    fn cell(&self, hash: u64, text: &str) -> Result<&Entry, usize> {
        let mask = self.cells.len() - 1;
        let mut cell = (hash ^ (hash >> 32)) as usize & mask;
        loop {
            let Some(at) = self.cells[cell].checked_sub(1) else { return Err(cell) };
            let entry = &self.entries[at as usize];
            if entry.hash == hash && *entry.prefix == *text {
                return Ok(entry);
            }
            cell = (cell + 1) & mask;
        }
    }

    /// The place of the longest prefix that covers `path`.
    pub fn longest(&self, path: &str) -> Option<usize> {
        if !path.starts_with('/') {
            return None;
        }
        let mut found = self.root;
        let mut hash = START;
        for (at, byte) in path.bytes().enumerate().take(self.longest + 1) {
            if byte == b'/' && at > 0 {
                found = self.at(hash, &path[..at]).or(found);
            }
            hash = step(hash, byte);
        }
        if path.len() <= self.longest {
            found = self.at(hash, path).or(found);
        }
        found
    }

    fn at(&self, hash: u64, text: &str) -> Option<usize> {
        self.cell(hash, text).ok().map(|entry| entry.place)
    }
}

#[cfg(test)]
mod tests {
    use domain::ReleaseId;
    use domain::route::{Route, SlotRoutes};
    use proptest::prelude::*;

    use super::*;

    fn naive(prefixes: &[String], path: &str) -> Option<String> {
        let route = |prefix: &String| Route {
            prefix: prefix.clone(),
            service: domain::ServiceName::new("any").unwrap(),
            endpoints: Vec::new(),
            health: None,
            max_body: None,
        };
        let routes = prefixes.iter().map(route).collect();
        let slot = SlotRoutes { release: ReleaseId::nth(1), routes };
        slot.matching(path).map(|route| route.prefix.clone())
    }

    fn segments() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{0,2}|ä|%2f", 0..4)
            .prop_map(|parts| format!("/{}", parts.join("/")))
    }

    proptest! {
        #[test]
        fn the_longest_prefix_is_the_one_that_a_scan_over_all_finds(
            prefixes in prop::collection::vec(segments(), 0..12), path in segments(), tail in "[ab/]{0,3}",
        ) {
            let open = |prefix: &String| prefix == "/" || !prefix.ends_with('/');
            let prefixes: Vec<_> = prefixes.into_iter().filter(open).collect();
            let index = Prefixes::new(prefixes.iter().map(String::as_str));
            for path in [format!("{path}{tail}"), path, tail] {
                let found = index.longest(&path).map(|place| prefixes[place].clone());
                prop_assert_eq!(found, naive(&prefixes, &path), "{} in {:?}", path, prefixes);
            }
        }
    }

    #[test]
    fn without_prefixes_nothing_is_found_and_of_two_equal_ones_the_later_counts() {
        assert_eq!(Prefixes::new([].into_iter()).longest("/x"), None);
        let twice = Prefixes::new(["/a", "/b", "/a"].into_iter());
        assert_eq!((twice.longest("/a/x"), twice.longest("/b")), (Some(2), Some(1)));
    }
}
