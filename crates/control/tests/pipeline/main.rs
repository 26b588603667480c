//! The build pipeline on real git repositories and the real process engine.

mod artifacts;
mod docker;
mod images;
mod integration;
mod repository;
mod reuse;
mod steps;
mod world;
