//! HTTP/2 with clients: everything that HTTP/1 carries, stream by stream.
