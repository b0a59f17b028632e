//! The allocator of programs for musl, which is what releases are.
//!
//! musl's own gives memory back to the kernel and asks for it again in small pieces, which took a fifth of a call.
//! `dlmalloc` does not, but copies what grows, also a list of megabytes. musl has the kernel move that (`mremap`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dlmalloc::Dlmalloc;

/// From about here on (`MMAP_THRESHOLD` in mallocng), musl gives each piece a mapping of its own.
const LARGE: usize = 128 << 10;

/// What is large is musl's, and all else `dlmalloc`'s.
pub(crate) struct BySize {
    small: UnsafeCell<Dlmalloc>,
    /// The crate's own lock is a mutex of musl's, which took a tenth of a call with many mappings.
    taken: AtomicBool,
}

// SAFETY: who has taken `small` is alone with it.
unsafe impl Sync for BySize {}

impl BySize {
    pub(crate) const fn new() -> Self {
        Self { small: UnsafeCell::new(Dlmalloc::new()), taken: AtomicBool::new(false) }
    }

    /// Others wait for the time that it takes to find a piece of memory.
    fn small<T>(&self, work: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        while self.taken.swap(true, Ordering::Acquire) {
            thread::yield_now();
        }
        // SAFETY: nobody else has taken it, and `work` allocates nothing in another way.
        let outcome = work(unsafe { &mut *self.small.get() });
        self.taken.store(false, Ordering::Release);
        outcome
    }
}

fn is_small(size: usize) -> bool {
    size < LARGE
}

// SAFETY: which of the two a piece is from depends on its size alone, which `Layout` says each time; both keep the
// contract.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if is_small(size) {
            // SAFETY: the caller's promises are those that are asked for.
            self.small(|heap| unsafe { heap.malloc(size, align) })
        } else {
            // SAFETY: as above.
            unsafe { System.alloc(layout) }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if is_small(size) {
            // SAFETY: as above.
            self.small(|heap| unsafe { heap.calloc(size, align) })
        } else {
            // SAFETY: as above.
            unsafe { System.alloc_zeroed(layout) }
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        let (size, align) = (layout.size(), layout.align());
        if is_small(size) {
            // SAFETY: as above; the piece is from the allocator for its size.
            self.small(|heap| unsafe { heap.free(piece, size, align) });
        } else {
            // SAFETY: as above.
            unsafe { System.dealloc(piece, layout) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (old_size, align) = (layout.size(), layout.align());
        match (is_small(old_size), is_small(size)) {
            // SAFETY: as above, before and after.
            (true, true) => {
                self.small(|heap| unsafe { heap.realloc(piece, old_size, align, size) })
            }
            // SAFETY: as above, before and after.
            (false, false) => unsafe { System.realloc(piece, layout, size) },
            // SAFETY: the caller promises that the size, rounded up to the alignment, is no overflow. The new piece is
            // another one, both are as long as what is copied, and the old one is not used again.
            _ => unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(size, align));
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(piece, moved, old_size.min(size));
                    self.dealloc(piece, layout);
                }
                moved
            },
        }
    }
}
