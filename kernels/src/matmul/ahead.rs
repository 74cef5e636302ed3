//! How far ahead of the block at work a panel is fetched.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Bytes: into the first-level cache, and into the second.
///
/// Of the 17.3 GB/s that one thread reads from memory, Q4_K gets 14.2 with one distance (of 1 to 8 KB),
/// 15.0 with 2 and 8 KB, 16.1 with these, and hardly more with 8 and 32 KB.
static AHEAD: [AtomicU32; 2] = [AtomicU32::new(4096), AtomicU32::new(12288)];

/// What suits Intel's: of 34.2 GB/s that two threads of a Sapphire Rapids read, Q4_0 gets 32.1, Q4_K
/// 31.4, IQ4_NL 31.1 and TQ2_0 31.3; with 2 and 4 KB 31.2, 31.2, 30.3 and 30.2, with those above 29.3,
/// 29.5, 30.0 and 31.7 of 35.9.
const INTEL: [u32; 2] = [3072, 6144];

/// The distances, near and far.
#[inline(always)]
pub(crate) fn distances() -> (usize, usize) {
    (AHEAD[0].load(Relaxed) as usize, AHEAD[1].load(Relaxed) as usize)
}

/// Chooses them for this processor. Only the speed of products depends on them.
pub(crate) fn suit_processor() {
    if is_intel() {
        AHEAD.iter().zip(INTEL).for_each(|(ahead, bytes)| ahead.store(bytes, Relaxed));
    }
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}
