//! The build pipeline on real git repositories and the real process engine.

mod artifacts;
mod integration;
mod repository;
mod reuse;
mod steps;
mod world;
