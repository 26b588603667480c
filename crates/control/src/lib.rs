//! The loop. Takes events, asks `domain`, performs actions through the other crates.

pub mod load;
pub mod pipeline;
