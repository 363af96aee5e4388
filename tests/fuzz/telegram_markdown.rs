//! Fuzzes the Markdown that becomes a Telegram message.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::formatted::markdown(bytes));
