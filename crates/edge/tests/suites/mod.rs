//! What the edge promises, run once on each way that a request can take.

mod carrying;
mod fast;
mod facts;
mod files;
mod hostile;
mod limits;
mod pause;
mod routing;
mod slow;
mod switching;
mod switching_sockets;
