//! Fuzzes the lines of an agent that stays, and the turn that they make.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hermes_fuzz::acp::conversation(bytes));
