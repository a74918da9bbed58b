//! How much memory a target takes: libFuzzer's own bound on a single allocation needs a sanitizer.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// Counts what the running thread has allocated.
pub struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static PLAIN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NOW.set(NOW.get().saturating_add(layout.size()));
        PEAK.set(PEAK.get().max(NOW.get()));
        // SAFETY: the caller keeps the contract, and we pass it on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.set(NOW.get().saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most that `work` had allocated at once, on this thread, and the bytes that it said are
/// [`plain`].
pub fn peak(work: impl FnOnce()) -> (usize, usize) {
    NOW.set(0);
    PEAK.set(0);
    PLAIN.set(0);
    work();
    (PEAK.get(), PLAIN.get())
}

/// So many bytes were decompressed, or counted against a budget: they warrant memory as those of the
/// input do. What only claims to have so many is not counted.
pub fn plain(bytes: usize) {
    PLAIN.set(PLAIN.get().saturating_add(bytes));
}
