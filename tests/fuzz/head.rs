//! Fuzzes request heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::wire::head(bytes));
