//! Fuzzes the items of a response's input, and what they become for an upstream.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::bodies::input(bytes));
