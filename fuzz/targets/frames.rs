//! The frames of a WebSocket, cut in every way.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edge::fuzzing::frames(bytes));
