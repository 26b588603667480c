//! Containers of a Docker Engine.

pub mod build;
