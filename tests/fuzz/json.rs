//! Fuzzes the JSON bodies of chats, responses and messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::bodies::json(bytes));
