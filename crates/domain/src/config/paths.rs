//! Paths in the files: always inside the project, in one spelling.

use super::mistake::Mistakes;
use super::reader::At;

/// `./backend/` becomes `backend`, `.` becomes the empty path of the root. `None` for a path that leaves
/// the folder it starts from.
pub(super) fn inside(path: &str) -> Option<String> {
    if path.starts_with(['/', '~']) || path.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The path in one spelling; a mistake if it leaves `home` ("the project", "its folder").
pub(super) fn checked(
    path: &At<String>,
    home: &str,
    mistakes: &mut Mistakes<'_>,
) -> Option<String> {
    let inside = inside(&path.value);
    if inside.is_none() {
        mistakes.add(
            path.extent,
            format!("`{}` leads out of {home}", path.value),
            format!(
                "write a path from {home}, without a leading `/` and without `..` that leads out"
            ),
        );
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_and_stays_inside() {
        assert_eq!(inside("./backend//src/../").as_deref(), Some("backend"));
        assert_eq!(inside(".").as_deref(), Some(""));
        for path in ["..", "a/../..", "/etc", "~/x", "a/../../b"] {
            assert_eq!(inside(path), None, "{path}");
        }
    }
}
