//! Every suite on the fast path, as users run it.

mod common;
mod suites;

/// Whether plain requests take the fast path.
pub const FAST: bool = true;
