//! A decode step allocates nothing, on any thread.
#![allow(unsafe_code)] // a global allocator has no safe interface

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::assets;
use goldcrest::Model;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decode_step_allocates_nothing() {
    let Some(assets) = assets() else { return };
    let folder = assets.join("models/stories260K/derived");
    for (file, threads) in
        [("stories260K-F32.gguf", 1), ("stories260K-Q4_0.gguf", 2), ("stories260K-Q8_0.gguf", 3)]
    {
        let model = Model::loader(folder.join(file)).threads(threads).load().unwrap();
        let mut session = model.session().unwrap();
        session.push(&[1, 403, 407, 261, 378]).unwrap();
        // The first steps make room, here and where a long context is first divided.
        session.push(&[432]).unwrap();
        for position in 0..400 {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            session.push(&[383]).unwrap();
            let after = ALLOCATIONS.load(Ordering::Relaxed);
            let divided = session.tokens().len() == 257 && threads == 3;
            assert!(after == before || divided, "{file}, step {position}: {}", after - before);
        }
    }
}
