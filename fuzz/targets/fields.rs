//! Fields that a client compressed, as heads of requests, and written again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edge::fuzzing::fields(bytes));
