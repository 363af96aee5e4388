//! Memory: the allocator's settings, mallopt(3), and pages that are not needed, madvise(2).

/// Keeps glibc's malloc small: one arena for all threads instead of eight a core, since our
/// threads mostly wait, and an arena each would cost every idle connection its own pages.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; called before the first thread starts.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Lets go of the pages of our own program that the start has touched and an idle gateway never
/// looks at again. They are the file's, unchanged: what is needed comes back from the page cache.
pub fn release_program() {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: the linker provides both symbols (ld(1)); only their addresses are taken.
        unsafe extern "C" {
            static __executable_start: u8;
            static etext: u8;
        }
        let start = &raw const __executable_start as usize;
        let end = &raw const etext as usize;
        let page = 4096;
        let (start, end) = (start & !(page - 1), end & !(page - 1));
        // SAFETY: from the file's header to the end of the code the mapping is read-only and backed
        // by the file, so dropping its pages changes nothing that could be read. An error (pages
        // of another size) leaves all as it was.
        unsafe {
            libc::madvise(
                start as *mut libc::c_void,
                end.saturating_sub(start),
                libc::MADV_DONTNEED,
            );
        }
    }
}
