//! Runs an edge by itself, for measuring it: `edge ADDRESS STATE_FOLDER [WORKERS]`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(Ok(listen)), Some(state)) =
        (arguments.next().map(|address| address.parse()), arguments.next())
    else {
        eprintln!("usage: edge ADDRESS STATE_FOLDER [WORKERS]");
        return ExitCode::from(2);
    };
    let workers = arguments.next().and_then(|count| count.parse().ok());
    match edge::main(edge::EdgeConfig {
        listen,
        state: state.into(),
        workers,
        ..Default::default()
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
