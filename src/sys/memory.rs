//! The allocator's settings: mallopt(3).

/// Keeps glibc's malloc small: one arena for all threads instead of eight a core, since our
/// threads mostly wait, and an arena each would cost every idle connection its own pages.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; called before the first thread starts.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
