//! Hosts and prefixes, against a naive model.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| edge::fuzzing::route(bytes));
