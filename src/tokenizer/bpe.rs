//! Byte-level BPE, as GPT-2 introduced it.

use std::collections::HashMap;

use rayon::prelude::*;

use super::limits::shown;
use super::merge::Merger;
use super::split::Splitters;
use super::vocab::Vocab;
use crate::error::{Result, tokenizer_error};

/// The character that stands for a byte in the vocabulary: printable bytes for themselves, the rest
/// from U+0100 on in order.
pub(super) fn byte_to_char(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The inverse of [`byte_to_char`].
pub(super) fn char_to_byte(c: char) -> Option<u8> {
    Some(match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => code as u8,
        code @ 0x100..=0x120 => (code - 0x100) as u8,
        code @ 0x121..=0x142 => (code - 0x121) as u8 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    })
}

/// Text to ids by splitting into words and merging bytes in the order of the merge list.
pub(super) struct Bpe {
    bytes: [Option<u32>; 256],
    /// (left, right) -> (rank, merged).
    merges: HashMap<(u32, u32), (u32, u32)>,
    splitters: Splitters,
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
}

impl Bpe {
    /// A model over `vocab` with merges written as `left right`.
    pub(super) fn new(
        vocab: &Vocab,
        merges: &[String],
        splitters: Splitters,
        ignore_merges: bool,
    ) -> Result<Self> {
        let bytes =
            std::array::from_fn(|byte| vocab.id(byte_to_char(byte as u8).encode_utf8(&mut [0; 4])));
        // Three look-ups by text a merge, in tables that fit no cache: most of the time of loading.
        let parsed: Vec<_> = merges
            .par_iter()
            .map_init(String::new, |joined, merge| parse_merge(vocab, merge, joined))
            .collect();
        let mut table = HashMap::with_capacity(merges.len());
        for (rank, parsed) in parsed.into_iter().enumerate() {
            let (pair, merged) = parsed.map_err(|why| {
                tokenizer_error(format!("merge {rank} ({}) {why}", shown(&merges[rank])))
            })?;
            // A repeated pair keeps its first rank, as every implementation does.
            table.entry(pair).or_insert((rank as u32, merged));
        }
        Ok(Self { bytes, merges: table, splitters, ignore_merges })
    }

    /// Appends the ids of `text`, which holds no special token.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) -> Result<()> {
        let mut merger = Merger::default();
        let mut spelled = String::new();
        for (start, end) in self.splitters.split(text)? {
            self.encode_word(vocab, &text[start..end], &mut merger, &mut spelled, out);
        }
        Ok(())
    }

    fn encode_word(
        &self,
        vocab: &Vocab,
        word: &str,
        merger: &mut Merger,
        spelled: &mut String,
        out: &mut Vec<u32>,
    ) {
        if self.ignore_merges && word.len() <= vocab.longest() {
            spelled.clear();
            spelled.extend(word.bytes().map(byte_to_char));
            if let Some(id) = vocab.id(spelled) {
                out.push(id);
                return;
            }
        }
        merger.clear();
        // Bytes without a token are dropped before merging, as Hugging Face does: without an unknown
        // token there is nothing to put in their place.
        for (at, byte) in word.bytes().enumerate() {
            if let Some(id) = self.bytes[byte as usize] {
                merger.push(at, at + 1, id);
            }
        }
        merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
        out.extend(merger.symbols().map(|symbol| symbol.id));
    }
}

type Merge = ((u32, u32), u32);

fn parse_merge(
    vocab: &Vocab,
    merge: &str,
    joined: &mut String,
) -> std::result::Result<Merge, String> {
    // The first character may itself be a space.
    let space = merge.bytes().skip(1).position(|byte| byte == b' ').ok_or("has no space")? + 1;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    joined.clear();
    joined.push_str(left);
    joined.push_str(right);
    let id = |text: &str| {
        vocab.id(text).ok_or_else(|| format!("needs {}, which is no token", shown(text)))
    };
    Ok(((id(left)?, id(right)?), id(joined)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            assert_eq!(char_to_byte(byte_to_char(byte)), Some(byte));
        }
        assert_eq!(byte_to_char(b' '), 'Ġ');
        assert_eq!(char_to_byte(' '), None);
    }
}
