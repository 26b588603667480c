//! The door: one binary, one verb a file in [`cli`]; [`api`] is the same door for programs.
//!
//! ```text
//! cli/<verb> ── client ──▶ api.sock ── api ──▶ control     what is said: view, api::wire
//! ```

mod api;
mod cli;
mod client;
mod demo;
mod tail;
mod view;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    // There is one shim per replica: nothing else of this binary may be set up in it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "shim") {
        engine::shim::main(arguments)
    }
    cli::main()
}
