//! Memory: the allocator's settings, mallopt(3), and pages that are not needed, madvise(2).

/// Keeps glibc's malloc small: two arenas for all threads instead of eight a core, since our threads
/// mostly wait, and an arena each would cost every idle connection its own pages. With one, those that
/// work at once queue for it. Large blocks (bodies, replies) are mappings of their own, which go back when
/// they are freed; by itself glibc stops that for blocks as large as the largest that was ever freed.
pub fn limit_malloc() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers; called before the first thread starts.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}

/// Lets go of what deeper calls have left on the calling thread's stack.
#[inline(never)]
pub fn release_stack() {
    /// More than this function has below its variables: the rest of its frame, and that of madvise(2).
    const OWN: usize = 1024;
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are filled in by the first call before the others use them, and destroyed once.
    // What is released begins where the stack does and ends below this frame, at the start of a page
    // (the kernel rounds the length up): nothing there is in use. An error leaves all as it was.
    unsafe {
        let mut attributes = std::mem::MaybeUninit::uninit();
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return;
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(usize::MAX);
        let below = (attributes.as_ptr() as usize).saturating_sub(OWN) / page * page;
        libc::madvise(low, below.saturating_sub(low as usize), libc::MADV_DONTNEED);
    }
}

/// Lets go of what the allocator has free, and of the pages of program and libraries that an idle gateway
/// does not look at. They are the files', unchanged: what is needed comes back from the page
/// cache.
pub fn release_pages() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes an integer, and gives back what is free.
    unsafe {
        libc::malloc_trim(0)
    };
    // SAFETY: the callback takes what dl_iterate_phdr(3) hands it, and no data of ours.
    unsafe { libc::dl_iterate_phdr(Some(release_object), std::ptr::null_mut()) };
}

/// Releases the segments of one loaded object that are never written to.
// SAFETY: only for dl_iterate_phdr, which calls it with an object that is loaded.
unsafe extern "C" fn release_object(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const PAGE: usize = 4096;
    // SAFETY: the loader hands out a valid description, with as many headers as it says.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (object.dlpi_addr as usize, std::slice::from_raw_parts(object.dlpi_phdr, count))
    };
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = base + header.p_vaddr as usize;
        let end = (start + header.p_memsz as usize) & !(PAGE - 1);
        let start = start & !(PAGE - 1);
        // SAFETY: a segment without PF_W is mapped from its file and nothing is relocated in it, so
        // dropping its pages changes nothing that could be read. An error (pages of another size,
        // the kernel's own object) leaves all as it was.
        unsafe {
            let length = end.saturating_sub(start);
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
    0
}
