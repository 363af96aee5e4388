//! Fuzzes the lines of a channel's adapter, and the connection with it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::adapter::connection(bytes));
