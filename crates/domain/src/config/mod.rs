//! What the user wrote, read strictly: `launchway.yaml` beside an ordinary Compose file.
//!
//! Two texts go in, one [`Project`] or every mistake at once comes out.

mod project;

pub use project::*;
