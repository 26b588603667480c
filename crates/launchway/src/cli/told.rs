//! Being told to end, by Ctrl-C or by whoever runs us: a verb that tidies up first ends as if it had not.

use tokio::signal::unix::{SignalKind, signal};

use super::Exit;

/// SIGINT or SIGTERM, from now on: how a shell expects a verb to end after it.
pub fn to_end() -> impl Future<Output = Exit> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => Exit::Terminated,
            _ = interrupt.recv() => Exit::Interrupted,
        }
    }
}
