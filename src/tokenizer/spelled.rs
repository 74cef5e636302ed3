//! BPE over characters, as a tokenizer.json has it.

use std::collections::HashMap;
use std::ops::Range;

use super::limits::shown;
use super::merge::Merger;
use super::vocab::Vocab;
use crate::error::{Error, Result, tokenizer_error};

/// Characters below this have their ids in a table: all that byte-level text is spelled with.
const TABLE: usize = 0x144;

/// What the file says about a model, without its vocabulary.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) merges: Vec<(String, String)>,
    pub(super) unknown: Option<String>,
    pub(super) fuse_unknown: bool,
    pub(super) byte_fallback: bool,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(super) ignore_merges: bool,
    /// Before every character of a word but the first.
    pub(super) prefix: String,
    /// After the last character of a word.
    pub(super) suffix: String,
}

/// A word to ids by merging neighbours in the order of the merge list.
pub(super) struct Bpe {
    /// (left, right) -> (rank, merged).
    merges: HashMap<(u32, u32), (u32, u32)>,
    table: Vec<Option<u32>>,
    bytes: Box<[Option<u32>; 256]>,
    settings: Settings,
    /// Ids of the vocabulary that are not the model's.
    foreign: Range<u32>,
}

impl Bpe {
    /// A model of the tokens of `vocab` whose ids are not in `foreign`.
    pub(super) fn new(vocab: &Vocab, mut settings: Settings, foreign: Range<u32>) -> Result<Self> {
        let own = |id: &u32| !foreign.contains(id);
        let listed = std::mem::take(&mut settings.merges);
        let mut merges = HashMap::with_capacity(listed.len());
        for (rank, (left, right)) in listed.iter().enumerate() {
            let wrong = |why: String| tokenizer_error(format!("model: merge {rank} {why}"));
            let id = |text: &str| {
                let id = vocab.id(text).filter(own);
                id.ok_or_else(|| wrong(format!("needs {}, which is no token", shown(text))))
            };
            let Some(rest) = right.strip_prefix(&settings.prefix) else {
                let (right, prefix) = (shown(right), shown(&settings.prefix));
                return Err(wrong(format!("has {right} without the prefix {prefix}")));
            };
            let merged = id(&format!("{left}{rest}"))?;
            // A repeated pair has its last rank, unlike in GGUF.
            merges.insert((id(left)?, id(right)?), (rank as u32, merged));
        }
        let table = (0..TABLE as u32)
            .map(|code| vocab.id(char::from_u32(code)?.encode_utf8(&mut [0; 4])).filter(own));
        let table = table.collect();
        let bytes = Box::new(vocab.byte_tokens().map(|id| id.filter(own)));
        Ok(Self { merges, table, bytes, settings, foreign })
    }

    fn id(&self, vocab: &Vocab, text: &str) -> Option<u32> {
        vocab.id(text).filter(|id| !self.foreign.contains(id))
    }

    /// Appends the ids of `word`.
    pub(super) fn encode_word(
        &self,
        vocab: &Vocab,
        word: &str,
        merger: &mut Merger,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        let whole = self.settings.ignore_merges && word.len() <= vocab.longest();
        if let Some(id) = whole.then(|| self.id(vocab, word)).flatten() {
            out.push(id);
            return Ok(());
        }
        merger.clear();
        let mut unknown = None;
        let mut spelled = String::new();
        for (at, c) in word.char_indices() {
            let ends = (at == 0, at + c.len_utf8() == word.len());
            self.push(vocab, c, ends, &mut spelled, &mut unknown, merger)?;
        }
        if let Some(id) = unknown {
            merger.append(id);
        }
        merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
        out.extend(merger.symbols().map(|symbol| symbol.id));
        Ok(())
    }

    fn push(
        &self,
        vocab: &Vocab,
        c: char,
        (first, last): (bool, bool),
        spelled: &mut String,
        unknown: &mut Option<u32>,
        merger: &mut Merger,
    ) -> Result<()> {
        let prefix = if first { "" } else { &self.settings.prefix };
        let suffix = if last { &self.settings.suffix } else { "" };
        let plain = prefix.is_empty() && suffix.is_empty();
        spelled.clear();
        spelled.extend([prefix, c.encode_utf8(&mut [0; 4]), suffix]);
        let id = match self.table.get(c as usize) {
            Some(&id) if plain => id,
            _ => self.id(vocab, spelled),
        };
        if let Some(id) = id {
            if let Some(unknown) = unknown.take() {
                merger.append(unknown);
            }
            merger.append(id);
        } else if self.settings.byte_fallback
            && spelled.bytes().all(|byte| self.bytes[byte as usize].is_some())
        {
            let bytes = spelled.bytes().filter_map(|byte| self.bytes[byte as usize]);
            bytes.for_each(|id| merger.append(id));
        } else if let Some(text) = &self.settings.unknown {
            let id = self.id(vocab, text).ok_or_else(|| self.no_unknown(c, text))?;
            match unknown.replace(id) {
                Some(before) if !self.settings.fuse_unknown => merger.append(before),
                _ => {}
            }
        }
        Ok(())
    }

    fn no_unknown(&self, c: char, text: &str) -> Error {
        let text = shown(text);
        tokenizer_error(format!("model: the vocabulary has neither {c:?} nor unk_token {text}"))
    }
}
