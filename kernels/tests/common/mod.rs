//! What the tests of the ops share.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::panic::{AssertUnwindSafe, catch_unwind};

use goldcrest_kernels::{Isa, Kernels};

/// The tier that the others are compared with.
pub fn portable() -> &'static Kernels {
    Kernels::for_isa(Isa::Portable).expect("runs on any processor")
}

/// The bits of floats, all NaN alike: which NaN comes out is the one thing that may differ.
pub fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

/// What `f` gives on the portable tier, once it is known that every other, unfused, gives the
/// same bits.
#[track_caller]
pub fn on_every_tier(what: &str, f: impl Fn(&Kernels) -> Vec<f32>) -> Vec<f32> {
    let want = f(portable());
    for isa in Isa::supported() {
        let got = f(Kernels::deterministic(isa).expect("is supported"));
        if let Some(i) = bits(&got).iter().zip(bits(&want)).position(|(&g, w)| g != w) {
            panic!("{isa}-{what}: element {i} of {} is {}, not {}", got.len(), got[i], want[i]);
        }
        assert_eq!(got.len(), want.len(), "{isa}-{what}");
    }
    want
}

/// Checks that `f` panics with `words` in its message.
#[track_caller]
pub fn refused<T>(words: &str, f: impl FnOnce() -> T) {
    let panic = catch_unwind(AssertUnwindSafe(f)).err().expect("it was accepted");
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let message = text.or_else(|| panic.downcast_ref::<&str>().copied()).expect("a message");
    assert!(message.contains(words), "\"{message}\" says nothing of \"{words}\"");
}
