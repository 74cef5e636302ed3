//! Greedy merging of neighbours by rank: the loop that byte-level BPE and SentencePiece share.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// A run of bytes that is one symbol so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub(super) start: u32,
    pub(super) end: u32,
    /// The token of the run, or whatever the caller's `pair` reads in it.
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

/// Rank, left, right, end of the right, merged id: the lowest rank comes first, then the leftmost.
type Queued = (u32, u32, u32, u32, u32);

/// Buffers of [`Merger::run`], kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Queued>>,
}

impl Merger {
    /// Forgets the last word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol to the word.
    pub(super) fn push(&mut self, start: usize, end: usize, id: u32) {
        let at = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        let prev = if at == 0 { NONE } else { at - 1 };
        self.symbols.push(Symbol { start: start as u32, end: end as u32, id, prev, next: NONE });
    }

    /// Appends a token, whatever its text.
    pub(super) fn append(&mut self, id: u32) {
        let at = self.symbols.len();
        self.push(at, at + 1, id);
    }

    /// Merges until no pair is left that `pair` gives a rank and a merged id for.
    ///
    /// Every merge removes a symbol and queues two pairs at most, so n symbols cost O(n log n).
    pub(super) fn run(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        for right in 1..self.symbols.len() as u32 {
            self.offer(right - 1, right, &pair);
        }
        while let Some(Reverse((_, left, right, end, id))) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // Stale: the left one was merged away or has swallowed the right one (then its successor
            // is another), or the right one has grown (then it ends elsewhere).
            if l.next != right || r.end != end {
                continue;
            }
            self.join(left, right, id);
            let merged = self.symbols[left as usize];
            if merged.prev != NONE {
                self.offer(merged.prev, left, &pair);
            }
            if merged.next != NONE {
                self.offer(left, merged.next, &pair);
            }
        }
    }

    fn join(&mut self, left: u32, right: u32, id: u32) {
        let r = self.symbols[right as usize];
        let l = &mut self.symbols[left as usize];
        (l.end, l.next, l.id) = (r.end, r.next, id);
        // The dead symbol keeps an empty range, so that no queued pair can match it again.
        self.symbols[right as usize].end = r.start;
        self.symbols[right as usize].next = NONE;
        if r.next != NONE {
            self.symbols[r.next as usize].prev = left;
        }
    }

    fn offer(
        &mut self,
        left: u32,
        right: u32,
        pair: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, id)) = pair(l, r) {
            self.queue.push(Reverse((rank, left, right, r.end, id)));
        }
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.end > symbol.start)
    }
}
