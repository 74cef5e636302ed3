//! How fast this machine reads memory: several honest ways, the best of which is the limit.
//!
//! Every probe reads buffers far larger than a cache, once, with as many threads as the work it
//! is compared to.

use std::sync::Barrier;
use std::time::Instant;

use goldcrest::Result;
use goldcrest::load::Buffer;
use goldcrest_kernels::Kernels;

use crate::machine::available_memory;

/// Bytes of one buffer, where the machine has them: caches of servers have hundreds of megabytes.
const BYTES: u64 = 1 << 30;
const LINE: usize = 64;

/// One way to read.
struct Probe {
    name: &'static str,
    huge_pages: bool,
    read: fn(&[u8]) -> u64,
    /// Gigabytes per second in the best round.
    gbs: f64,
}

/// The probes and their buffers.
pub(crate) struct Bandwidth {
    threads: usize,
    small: Vec<u8>,
    huge: Buffer,
    probes: Vec<Probe>,
    /// Keeps the sums from being optimised away.
    sum: u64,
}

/// What the best probe found.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) probe: &'static str,
    /// In its best round: what the memory can give does not depend on who else used it meanwhile.
    pub(crate) gbs: f64,
}

impl Bandwidth {
    /// Probes that read buffers of `bytes`, where that is not left to the machine.
    pub(crate) fn new(threads: usize, bytes: Option<usize>) -> Result<Self> {
        let default = || available_memory().map_or(BYTES / 4, |free| BYTES.min(free / 4)) as usize;
        let unit = LINE * threads;
        let bytes = (bytes.unwrap_or_else(default) / unit).max(1) * unit;
        let mut huge = Buffer::zeroed(bytes)?;
        // Pages that nobody wrote are all one page of zeros.
        huge.as_mut_slice().fill(1);
        let probe = |name, huge_pages, read| Probe { name, huge_pages, read, gbs: 0.0 };
        let probes = vec![
            probe("plain", false, sum::<1>),
            probe("huge pages", true, sum::<1>),
            probe("huge pages, 2 streams", true, sum::<2>),
            probe("huge pages, 4 streams", true, sum::<4>),
            probe("huge pages, 8 streams", true, sum::<8>),
            probe("huge pages, vectors", true, vectors::<0>),
            probe("huge pages, vectors, 1 KB ahead", true, vectors::<1024>),
            probe("huge pages, vectors, 2 KB ahead", true, vectors::<2048>),
            probe("huge pages, vectors, 4 KB ahead", true, vectors::<4096>),
        ];
        Ok(Self { threads, small: vec![1; bytes], huge, probes, sum: 0 })
    }

    /// Runs every probe once.
    pub(crate) fn round(&mut self) {
        for probe in &mut self.probes {
            let buffer: &[u8] = if probe.huge_pages { &self.huge } else { &self.small };
            let (sum, seconds) = in_parallel(self.threads, buffer, probe.read);
            self.sum ^= sum;
            probe.gbs = probe.gbs.max(buffer.len() as f64 * 1e-9 / seconds);
        }
    }

    /// The best probe; `None` before the first round.
    pub(crate) fn limit(&self) -> Option<Limit> {
        let best = self.probes.iter().max_by(|a, b| a.gbs.total_cmp(&b.gbs))?;
        (best.gbs > 0.0).then_some(Limit { probe: best.name, gbs: best.gbs })
    }
}

/// Reads a share of the buffer with each thread; the seconds from the first start to the last end.
fn in_parallel(threads: usize, buffer: &[u8], read: fn(&[u8]) -> u64) -> (u64, f64) {
    let ready = Barrier::new(threads);
    let shares: Vec<(u64, Instant, Instant)> = std::thread::scope(|scope| {
        let work = |share| {
            let ready = &ready;
            scope.spawn(move || {
                ready.wait();
                let start = Instant::now();
                let sum = read(share);
                (sum, start, Instant::now())
            })
        };
        let workers: Vec<_> = buffer.chunks(buffer.len() / threads).map(work).collect();
        workers.into_iter().map(|worker| worker.join().expect("reading cannot panic")).collect()
    });
    let sum = shares.iter().fold(0, |sum, share| sum ^ share.0);
    let start = shares.iter().map(|share| share.1).min();
    let end = shares.iter().map(|share| share.2).max();
    let seconds = start.zip(end).map_or(0.0, |(start, end)| (end - start).as_secs_f64());
    (sum, seconds)
}

/// Adds up the words of N parts of `bytes`, a line of each in turn.
fn sum<const N: usize>(bytes: &[u8]) -> u64 {
    let (lines, _) = bytes.as_chunks::<LINE>();
    let part = lines.len() / N;
    let parts: [&[[u8; LINE]]; N] = std::array::from_fn(|i| &lines[i * part..][..part]);
    let mut sums = [0u64; LINE / 8];
    for i in 0..part {
        for part in &parts {
            let (words, _) = part[i].as_chunks::<8>();
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// Adds up the words with the widest vectors that there are, fetched `AHEAD` bytes ahead.
fn vectors<const AHEAD: usize>(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    Kernels::best().sum_words(bytes, AHEAD, &mut sum);
    sum as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        let bytes: Vec<u8> = (0..64 * LINE).map(|i| (i * 7) as u8).collect();
        let expected = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .fold(0, u64::wrapping_add);
        assert_eq!(sum::<1>(&bytes), expected);
        assert_eq!(sum::<4>(&bytes), expected);
        assert_eq!(sum::<8>(&bytes), expected);
        let words = bytes.as_chunks::<4>().0.iter();
        let all = words.fold(0i32, |sum, word| sum.wrapping_add(i32::from_le_bytes(*word)));
        assert_eq!(vectors::<0>(&bytes), all as u64);
        assert_eq!(vectors::<2048>(&bytes), all as u64);
        let (halves, seconds) = in_parallel(2, &bytes, sum::<1>);
        let (a, b) = bytes.split_at(bytes.len() / 2);
        assert_eq!(halves, sum::<1>(a) ^ sum::<1>(b));
        assert!(seconds > 0.0);
    }
}
