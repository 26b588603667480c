//! Who is at the other end of the socket, as the kernel says.

use std::ffi::CString;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use domain::Identity;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::UnixListener;

use super::answer::Problem;

/// The credentials of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(Option<(u32, u32)>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|who| (who.uid(), who.gid())))
    }
}

impl Peer {
    /// The name of the user; one without a name goes by `uid-1000`.
    pub fn identity(self) -> Result<Identity, Problem> {
        let (uid, _) = self.credentials()?;
        identity(uid).map_err(Problem::conflict)
    }

    /// The names of the user's groups.
    pub fn groups(self) -> Result<Vec<String>, Problem> {
        let (uid, gid) = self.credentials()?;
        let named = |gid: Gid| Group::from_gid(gid).ok().flatten().map(|group| group.name);
        Ok(groups_of(uid, gid).into_iter().filter_map(named).collect())
    }

    fn credentials(self) -> Result<(u32, u32), Problem> {
        self.0.ok_or_else(|| Problem::conflict("the kernel does not say who asks"))
    }
}

/// The name of a user of this machine.
pub fn identity(uid: u32) -> Result<Identity, String> {
    let user = User::from_uid(Uid::from_raw(uid)).map_err(|error| error.to_string())?;
    let name = user.map_or_else(|| format!("uid-{uid}"), |user| user.name);
    Identity::new(name).map_err(|error| error.to_string())
}

fn groups_of(uid: u32, gid: u32) -> Vec<Gid> {
    let own = Gid::from_raw(gid);
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.and_then(|user| CString::new(user.name).ok());
    let all = name.and_then(|name| getgrouplist(&name, own).ok());
    all.unwrap_or_else(|| vec![own])
}
