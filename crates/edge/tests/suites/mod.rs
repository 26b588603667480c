//! What the edge promises, run once on each way that a request can take.

mod access_log;
mod carrying;
mod comeback;
mod facts;
mod fast;
mod files;
mod hostile;
mod http2;
mod http2_frames;
mod http2_replicas;
mod limits;
mod pause;
mod routing;
mod slow;
mod switching;
mod switching_sockets;
mod tls;
