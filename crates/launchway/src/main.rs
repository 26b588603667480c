//! The door: one binary, one verb a file in [`cli`].

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    // There is one shim per replica: nothing else of this binary may be set up in it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|verb| verb == "shim") {
        engine::shim::main(arguments)
    }
    cli::main()
}
