//! Every suite again with all requests through hyper: the two ways must not differ.

mod common;
mod suites;

/// Whether plain requests take the fast path.
pub const FAST: bool = false;
