//! Runs an edge by itself, for measuring it: `edge ADDRESS STATE_FOLDER [WORKERS [hyper]]`.
//! With `hyper` nothing takes the fast path.

use std::process::ExitCode;

use edge::{Edge, EdgeConfig, EdgeError, Limits};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(Ok(listen)), Some(state)) =
        (arguments.next().map(|address| address.parse()), arguments.next())
    else {
        eprintln!("usage: edge ADDRESS STATE_FOLDER [WORKERS [hyper]]");
        return ExitCode::from(2);
    };
    let workers = arguments.next().and_then(|count| count.parse().ok());
    let config = EdgeConfig { listen, state: state.into(), workers, ..Default::default() };
    let run = match arguments.next().as_deref() {
        Some("hyper") => all_through_hyper(&config),
        _ => edge::main(config),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn all_through_hyper(config: &EdgeConfig) -> Result<(), EdgeError> {
    let signal = |source| EdgeError::Signal { source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(signal)?.block_on(async {
        use tokio::signal::unix;
        let mut terminate = unix::signal(unix::SignalKind::terminate()).map_err(signal)?;
        let edge = Edge::start(config, Limits { fast: false, ..Limits::default() })?;
        terminate.recv().await;
        edge.stop();
        Ok(())
    })
}
