//! A decode step allocates nothing, on any thread.
#![allow(unsafe_code)] // a global allocator has no safe interface

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::models::{ids, random, stories_with};
use goldcrest::Model;
use goldcrest::load::GgmlType;

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
    let stories = stories_with(&[("llama.context_length", 512)]);
    for (name, file, threads) in [
        ("F32", random(GgmlType::F32).build(), 1),
        ("Q4_K", random(GgmlType::Q4_K).build(), 2),
        ("stories", stories, 3),
    ] {
        let model = Model::from_bytes(name, file).threads(threads).load().unwrap();
        // The threads that packed may still be on their way out.
        std::thread::sleep(std::time::Duration::from_millis(300));
        let mut session = model.session().unwrap();
        session.push(&ids(5, 384)).unwrap();
        // The first steps make room, here and where a long context is first divided.
        session.push(&[43]).unwrap();
        for position in 0..400 {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            session.push(&[83]).unwrap();
            let after = ALLOCATIONS.load(Ordering::Relaxed);
            let divided = session.tokens().len() == 257 && threads == 3;
            assert!(after == before || divided, "{name}, step {position}: {}", after - before);
        }
    }
}
