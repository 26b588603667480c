//! A feed that outlives its server: what is followed goes on under the next one, and is followed there.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::cli::{Exit, Failure};
use crate::client::{CallError, Client, Feed};

/// For a server that went away to come back, by its init system or by hand.
const AWAY: Duration = Duration::from_secs(60);
/// Between two looks whether it is there.
const LOOK: Duration = Duration::from_millis(200);

/// What a server says of one thing, from server to server.
pub struct Lasting<'a> {
    client: &'a Client,
    path: String,
    /// The run or rollout.
    what: &'a str,
    feed: Feed,
}

/// The next of it.
pub enum Next<T> {
    Update(T),
    /// Another server says it all from the beginning.
    Again,
}

impl<'a> Lasting<'a> {
    /// Follows `what` at `path`.
    pub async fn begin(client: &'a Client, path: String, what: &'a str) -> Result<Self, Failure> {
        let feed = client.follow(&path).await?;
        Ok(Self { client, path, what, feed })
    }

    /// Waits for an update, and for a server if this one goes away.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Next<T>, Failure> {
        let why = match self.feed.next().await {
            Ok(Some(update)) => return Ok(Next::Update(update)),
            Ok(None) | Err(CallError::Broken { .. }) => self.lost(),
            Err(error) => error.into(),
        };
        let seconds = AWAY.as_secs();
        if let Failure::Other { message, .. } = &why {
            eprintln!("{message}; waiting up to {seconds} s for a server that goes on with it");
        }
        self.feed = self.back(why).await?;
        eprintln!("the server is back: {} goes on", self.what);
        Ok(Next::Again)
    }

    /// The feed of the next server; `why` there is none if none comes.
    async fn back(&self, mut why: Failure) -> Result<Feed, Failure> {
        let deadline = Instant::now() + AWAY;
        while Instant::now() < deadline {
            sleep(LOOK).await;
            match self.client.follow(&self.path).await {
                Ok(feed) => return Ok(feed),
                Err(CallError::Absent { .. } | CallError::Broken { .. }) => why = self.lost(),
                Err(hangs @ CallError::Silent { .. }) => why = hangs.into(),
                Err(CallError::Refused { status, .. }) if status.is_server_error() => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        Err(why)
    }

    fn lost(&self) -> Failure {
        Failure::new(
            Exit::Failed,
            format!("the server went away while {} was followed", self.what),
            "start it again with `launchway server`: it goes on from there",
        )
    }
}
