//! The precompiled character map of SentencePiece: characters and what they become.
//!
//! Little-endian: bytes of the trie as 32 bits, the trie (a double array of 32-bit units, as darts-clone
//! lays it out), then the replacements, each ending with a zero byte. A value is a place in those.

use unicode_segmentation::UnicodeSegmentation;

use crate::error::{Error, Result, tokenizer_error};

/// The one kind of normalizer that reads tables of the file.
pub(super) struct Charsmap {
    trie: Vec<u32>,
    replacements: String,
}

/// Longer clusters are looked up character by character, as Hugging Face does.
const MAX_CLUSTER: usize = 5;

fn broken(what: &str) -> Error {
    tokenizer_error(format!("precompiled_charsmap: {what}"))
}

impl Charsmap {
    /// Reads a map; its tables are checked where they are used.
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        let short = || broken("shorter than it says");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let units = u32::from_le_bytes(*length) as usize / 4;
        let (trie, rest) = rest.split_at_checked(units * 4).ok_or_else(short)?;
        let trie = trie.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        let replacements = String::from_utf8(rest.to_vec()).map_err(|_| broken("no UTF-8"))?;
        Ok(Self { trie, replacements })
    }

    /// The mapped form of `text`, or `None` where it is longer than `limit`.
    pub(super) fn apply(&self, text: &str, limit: usize) -> Result<Option<String>> {
        let mut out = String::with_capacity(text.len());
        for cluster in text.graphemes(true) {
            let whole = match cluster.len() <= MAX_CLUSTER {
                true => self.lookup(cluster)?,
                false => None,
            };
            if let Some(at) = whole {
                self.append(at, limit, &mut out)?;
            } else {
                for (at, c) in cluster.char_indices() {
                    match self.lookup(&cluster[at..at + c.len_utf8()])? {
                        Some(at) => self.append(at, limit, &mut out)?,
                        None => out.push(c),
                    }
                }
            }
            if out.len() > limit {
                return Ok(None);
            }
        }
        Ok(Some(out))
    }

    /// Where the replacement of the shortest key that `text` starts with lies.
    fn lookup(&self, text: &str) -> Result<Option<usize>> {
        let unit =
            |at: usize| self.trie.get(at).copied().ok_or_else(|| broken("a unit is missing"));
        let offset = |unit: u32| ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize;
        let mut at = offset(unit(0)?);
        for byte in text.bytes().take_while(|&byte| byte != 0) {
            at ^= usize::from(byte);
            let found = unit(at)?;
            if found & (1 << 31 | 0xff) != u32::from(byte) {
                return Ok(None);
            }
            at ^= offset(found);
            if found >> 8 & 1 == 1 {
                return Ok(Some((unit(at)? & !(1 << 31)) as usize));
            }
        }
        Ok(None)
    }

    /// Appends the replacement at `at`, or so much of it that `out` is longer than `limit`.
    fn append(&self, at: usize, limit: usize, out: &mut String) -> Result<()> {
        let rest = self.replacements.get(at..).ok_or_else(|| broken("a replacement is missing"))?;
        // No more is searched than may be used: not each replacement has to end soon.
        let window = rest.ceil_char_boundary((limit + 1).saturating_sub(out.len()));
        let end = rest[..window].find('\0').unwrap_or(window);
        out.push_str(&rest[..end]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of `a` to `text`.
    fn map(text: &str) -> Charsmap {
        // The root has children at 0 ^ byte, the child has its value at 97 ^ 96 = 1.
        let mut trie = vec![0; 128];
        trie[usize::from(b'a')] = u32::from(b'a') | 1 << 8 | 96 << 10;
        trie[1] = 1 << 31;
        Charsmap { trie, replacements: text.to_owned() }
    }

    #[test]
    fn characters_become_what_the_map_says() {
        assert_eq!(map("xy\0z").apply("bab", 100).unwrap().unwrap(), "bxyb");
        assert_eq!(map("\0").apply("aba", 100).unwrap().unwrap(), "b");
        // A combining mark makes a cluster, and the shortest key in it is taken for all of it.
        assert_eq!(map("x\0").apply("a\u{301}", 100).unwrap().unwrap(), "x");
    }

    #[test]
    fn no_map_makes_more_of_a_text_than_it_may() {
        let long = map(&"x".repeat(1000));
        assert_eq!(long.apply("a", 1000).unwrap().unwrap().len(), 1000);
        assert!(long.apply("a", 999).unwrap().is_none());
    }

    #[test]
    fn tables_that_point_nowhere_are_errors() {
        for bytes in [&[][..], &[8, 0, 0, 0, 1, 2, 3, 4], &[0, 0, 0, 0, 0xff]] {
            assert!(Charsmap::new(bytes).is_err());
        }
        assert!(Charsmap::new(&[0, 0, 0, 0]).unwrap().apply("a", 100).is_err());
        let mut outside = map("x");
        outside.trie[1] = 2 | 1 << 31;
        assert!(outside.apply("a", 100).is_err());
        outside.trie[usize::from(b'a')] |= 0x7ff << 20;
        assert!(outside.apply("a", 100).is_err());
    }
}
