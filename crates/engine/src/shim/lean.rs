//! Gives back what starting up has touched: there is one shim per replica, and each is idle nearly always.

use std::fs;

use nix::libc;

/// Drops the program's code from resident memory; what runs on comes back from the page cache.
pub(super) fn drop_code() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code) {
        give_back(start, length);
    }
}

/// `START-END r-xp OFFSET DEVICE INODE PATH`: mapped from a file, executable, never written.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let from_file = fields.next()? == "r-xp" && fields.nth(3)?.starts_with('/');
    let (start, end) =
        (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    from_file.then(|| (start, end.saturating_sub(start)))
}

#[allow(unsafe_code)]
fn give_back(start: usize, length: usize) {
    // SAFETY: the range is a whole private mapping of a file that was never writable, so that the kernel
    // reads the same bytes again on the next access. A failure changes nothing and does not matter.
    unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_given_back() {
        assert_eq!(
            code("1000-3000 r-xp 00001000 fe:00 7  /usr/bin/launchway"),
            Some((0x1000, 0x2000))
        );
        assert_eq!(code("1000-3000 r--p 00001000 fe:00 7  /usr/bin/launchway"), None);
        assert_eq!(code("1000-3000 r-xp 00000000 00:00 0  [vdso]"), None);
        assert_eq!(code("1000-3000 r-xp 00000000 00:00 0"), None);
        drop_code();
    }
}
