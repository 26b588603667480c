//! The edge beside nginx, HAProxy and kamal-proxy: what a request costs.

use crate::peers::Outcome;

/// Options of `bench edge`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs it.
pub async fn run(_args: Args) -> Outcome<()> {
    Ok(())
}
