//! The one use that a buffer has between two barriers.

use super::sync::{AtomicU64, AtomicUsize, Ordering};

/// Bits of a use; the rest of a stamp is the section, which begins at 1.
pub(super) const USE_BITS: u32 = 46;
/// Sections that a job may have.
const SECTIONS: u64 = 1 << (u64::BITS - USE_BITS);

/// Remembers the section in which a buffer was last used, and how.
///
/// Of different uses in one section the first stays: every worker that comes with another one is
/// refused, and so is the next that comes with the refused one.
pub(super) struct Stamp {
    last: AtomicU64,
    /// The team whose workers may use the buffer, told by its address: two teams have no barrier
    /// in common. 0 before the first use.
    team: AtomicUsize,
}

impl Stamp {
    pub(super) fn new() -> Self {
        Self { last: AtomicU64::new(0), team: AtomicUsize::new(0) }
    }

    /// Asks for `use_` in a section of a team. The order of memory is the barrier's affair.
    ///
    /// # Errors
    /// Why not, when the buffer has another use in the same section.
    pub(super) fn enter(&self, team: usize, section: u32, use_: u64) -> Result<(), &'static str> {
        debug_assert!(use_ < 1 << USE_BITS);
        let section = u64::from(section);
        if section >= SECTIONS {
            return Err("too many steps in a job");
        }
        if self.team.load(Ordering::Relaxed) != team {
            let first = self.team.compare_exchange(0, team, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_err_and(|owner| owner != team) {
                return Err("a buffer is another team's");
            }
        }
        let stamp = section << USE_BITS | use_;
        let mut before = self.last.load(Ordering::Relaxed);
        while before != stamp {
            // A stamp of another section is from before the last barrier: its slices are gone.
            if before >> USE_BITS == section {
                return Err("a buffer has two uses between two barriers");
            }
            let swap = self.last.compare_exchange_weak(
                before,
                stamp,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            before = swap.map_or_else(|now| now, |_| stamp);
        }
        Ok(())
    }
}
