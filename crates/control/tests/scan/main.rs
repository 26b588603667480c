//! The scan gate with real scanners: what they find refuses, and so does everything that keeps them from answering.
//!
//! No database of known vulnerabilities comes with them: the tests make a small one.

#[path = "../pipeline/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the pipeline")]
mod world;

mod artifacts;
mod images;
mod place;
mod tree;
