//! Walking the stack, which a panic does where `RUST_BACKTRACE` is set. For releases only.
//!
//! A release has no symbols and no unwind tables (see `build.rs`): its backtraces would be empty.
//! This takes the walk's place there, so that nothing needs std's reader of symbols, a sixth of
//! the binary. A panic still says what and where, and aborts.

use std::ffi::{c_int, c_void};

/// What the ABI for exceptions calls the end of the stack, `_URC_END_OF_STACK`.
const END: c_int = 5;

// SAFETY: the ABI's own name and signature; at its first frame the stack ends, as it may.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_each: *const c_void, _argument: *mut c_void) -> c_int {
    END
}
