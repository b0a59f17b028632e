//! The allocator of programs for musl, which is what releases are.
//!
//! musl's own gives memory back to the kernel and asks for it again in small pieces, which took a fifth of a call.
//! `dlmalloc` does not, but copies what grows, also a list of megabytes. musl has the kernel move that (`mremap`).

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

use dlmalloc::GlobalDlmalloc;

/// From about here on (`MMAP_THRESHOLD` in mallocng), musl gives each piece a mapping of its own.
const LARGE: usize = 128 << 10;

/// What is large is musl's, and all else `dlmalloc`'s.
pub(crate) struct BySize;

// SAFETY: which of the two a piece is from depends on its size alone, which `Layout` says each time; both keep the
// contract.
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { of(layout.size()).alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { of(layout.size()).alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above; the piece is from the allocator for its size.
        unsafe { of(layout.size()).dealloc(piece, layout) }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if (layout.size() < LARGE) == (size < LARGE) {
            // SAFETY: as above, before and after.
            return unsafe { of(size).realloc(piece, layout, size) };
        }
        // SAFETY: the caller promises that the size, rounded up to the alignment, is no overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the new piece is another one, both are as long as what is copied, and the old one is not used again.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(piece, moved, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}

fn of(size: usize) -> &'static dyn GlobalAlloc {
    if size < LARGE { &GlobalDlmalloc } else { &System }
}
