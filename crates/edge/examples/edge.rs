//! Runs an edge by itself, for measuring it: `edge ADDRESS STATE_FOLDER [WORKERS [fast|hyper [HTTPS_ADDRESS]]]`.
//! With `hyper` nothing takes the fast path. It takes over from an edge that runs in the folder.

use std::process::ExitCode;

use edge::{EdgeConfig, Limits};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(Ok(listen)), Some(state)) =
        (arguments.next().map(|address| address.parse()), arguments.next())
    else {
        eprintln!("usage: edge ADDRESS STATE_FOLDER [WORKERS [fast|hyper [HTTPS_ADDRESS]]]");
        return ExitCode::from(2);
    };
    let workers = arguments.next().and_then(|count| count.parse().ok());
    let fast = arguments.next().as_deref() != Some("hyper");
    let config = EdgeConfig {
        listen,
        https: arguments.next().and_then(|address| address.parse().ok()),
        state: state.into(),
        workers,
        take_over: true,
        ..Default::default()
    };
    match edge::run(&config, Limits { fast, ..Limits::default() }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
