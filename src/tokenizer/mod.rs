//! Text to token ids and back.
//!
//! A [`Tokenizer`] is built from the metadata of a GGUF file or from a Hugging Face tokenizer.json.
//! The first kind reads the vocabulary as llama.cpp wrote it, the second does what Hugging Face's
//! `tokenizers` does. Where the two traditions disagree on the ids of a text, the model's own tokenizer
//! (Hugging Face's) is right.
//!
//! A file may be made to exhaust memory, stack or time: what it may ask for is limited, and more is an
//! error.

mod backtracking;
mod bpe;
mod charsmap;
mod checkpoint;
mod decoder;
mod eog;
mod gguf;
mod json;
mod limits;
mod linear;
mod merge;
mod normalize;
mod pretokenizers;
mod special;
mod spelled;
mod split;
mod spm;
mod stages;
mod trie;
mod unigram;
mod vocab;
mod wordpiece;
mod words;

use std::fmt;
use std::sync::Arc;

pub use decoder::Decoder;
pub use gguf::MetadataSource;

use crate::error::{Result, input_error};
use decoder::Rules;
use special::{Part, Specials};
use stages::Stages;
use vocab::{Kind, Vocab};

/// What [`Tokenizer::encode_with`] does with special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the tokens that the model wants around a text (BOS, EOS, CLS, SEP).
    pub add_special: bool,
    /// Read the names of special tokens in the text as these tokens. Off for text of strangers, who
    /// could otherwise forge the turns of a conversation.
    pub parse_special: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { add_special: true, parse_special: true }
    }
}

/// A model's tokenizer: immutable, shared between threads, cheap to clone.
///
/// ```
/// # fn main() -> goldcrest::Result<()> {
/// let json = br###"{
///     "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
///     "pre_tokenizer": {"type": "BertPreTokenizer"},
///     "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
///     "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
///               "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "gold": 1, "##crest": 2}}
/// }"###;
/// let tokenizer = goldcrest::Tokenizer::from_json(json, None)?;
/// assert_eq!(tokenizer.encode("<s>goldcrest gold")?, [3, 1, 2, 1]);
/// assert_eq!(tokenizer.decode(&[3, 1, 2, 1], true)?, "goldcrest gold");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    vocab: Vocab,
    pipeline: Pipeline,
    /// Added before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    rules: Rules,
    /// Special tokens decode as they are written, whatever the rules.
    raw_special: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    eog: Vec<u32>,
}

impl Inner {
    fn is_special(&self, id: u32) -> bool {
        matches!(self.vocab.kind(id), Some(Kind::Control | Kind::Unknown))
    }
}

/// How a text becomes ids. One exists per tokenizer, behind its `Arc`, so the size does no harm.
#[allow(clippy::large_enum_variant)]
enum Pipeline {
    Own { specials: Specials, model: Model },
    Staged(Stages),
}

/// The models of GGUF vocabularies.
enum Model {
    Bpe {
        model: bpe::Bpe,
        nfc: bool,
    },
    Spm(spm::Spm),
    WordPiece {
        normalizer: normalize::Normalizer,
        steps: [words::Step; 2],
        model: wordpiece::WordPiece,
    },
}

impl Tokenizer {
    /// The tokenizer that the `tokenizer.ggml.*` keys of a GGUF file describe.
    ///
    /// Kinds: `gpt2` (byte-level BPE, split as `tokenizer.ggml.pre` names; `default` where that key
    /// is missing, as in files older than the key), `llama` (SentencePiece), `bert` (WordPiece),
    /// `t5` (unigram) and `gemma4` (BPE over characters).
    ///
    /// ```
    /// use goldcrest::tokenizer::MetadataSource;
    ///
    /// struct Keys(Vec<String>);
    /// impl MetadataSource for Keys {
    ///     fn string(&self, key: &str) -> Option<&str> {
    ///         (key == "tokenizer.ggml.model").then_some("llama")
    ///     }
    ///     fn strings(&self, key: &str) -> Option<&[String]> {
    ///         (key == "tokenizer.ggml.tokens").then_some(&self.0)
    ///     }
    ///     # fn floats(&self, _: &str) -> Option<Vec<f32>> { None }
    ///     # fn integers(&self, _: &str) -> Option<Vec<i64>> { None }
    ///     # fn integer(&self, _: &str) -> Option<i64> { None }
    ///     # fn boolean(&self, _: &str) -> Option<bool> { None }
    /// }
    /// let keys = Keys(["<unk>", "<s>", "</s>", "▁", "h", "i", "hi"].map(String::from).into());
    /// let tokenizer = goldcrest::Tokenizer::from_gguf(&keys).unwrap();
    /// assert_eq!(tokenizer.encode("hi").unwrap(), [1, 3, 6]);
    /// ```
    ///
    /// # Errors
    /// A kind or a pre-tokenizer of another name, or metadata that contradict themselves.
    pub fn from_gguf(metadata: &impl MetadataSource) -> Result<Self> {
        gguf::build(metadata).map(|inner| Self(Arc::new(inner)))
    }

    /// The tokenizer of a Hugging Face folder: tokenizer.json, and tokenizer_config.json for the names
    /// of the BOS and EOS tokens.
    ///
    /// # Errors
    /// The file is no tokenizer.json, needs a component that is not known or a decoder that cannot work
    /// token by token, or asks for more than any published one.
    pub fn from_json(json: &[u8], config: Option<&serde_json::Value>) -> Result<Self> {
        json::build(json, config).map(|inner| Self(Arc::new(inner)))
    }

    /// The ids of a text, with BOS and EOS as the model wants them, and the names of special tokens in
    /// the text read as these tokens.
    ///
    /// # Errors
    /// The vocabulary cannot spell the text, or a tokenizer.json has a pre-tokenizer that gives up on it
    /// or a normalizer that makes too much of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, EncodeOptions::default())
    }

    /// [`encode`](Self::encode) with a choice about special tokens.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        // Positions are 32 bits wide, and a space may become three bytes.
        if text.len() > u32::MAX as usize / 4 {
            return Err(input_error(format!("a text of {} bytes is too long", text.len())));
        }
        let inner = &*self.0;
        let mut ids = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special {
            ids.extend(&inner.prefix);
        }
        match &inner.pipeline {
            Pipeline::Staged(stages) => {
                stages.encode(&inner.vocab, text, options.parse_special, &mut ids)?;
            }
            Pipeline::Own { specials, model } => {
                let mut after_special = true;
                for part in specials.partition(text, options.parse_special) {
                    match part {
                        Part::Token(id) => ids.push(id),
                        Part::Text(text) => {
                            model.encode(&inner.vocab, text, after_special, &mut ids)?;
                        }
                    }
                    after_special = matches!(part, Part::Token(_));
                }
            }
        }
        if options.add_special {
            ids.extend(&inner.suffix);
        }
        Ok(ids)
    }

    /// The text of ids. Bytes that are no UTF-8 give U+FFFD.
    ///
    /// # Errors
    /// An id is not in the vocabulary, or the decoder makes too much of its text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut decoder = Decoder::new(self.0.clone(), skip_special);
        ids.iter().try_for_each(|&id| decoder.append(id))?;
        Ok(decoder.finish())
    }

    /// A decoder at the start of a text, which leaves special tokens out.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.0.clone(), true)
    }

    /// A decoder for what follows `context`: the first token keeps the space that it would lose at the
    /// start of a text, and a character that the context left unfinished is completed.
    ///
    /// # Errors
    /// An id is not in the vocabulary.
    pub fn decoder_after(&self, context: &[u32]) -> Result<Decoder> {
        let mut decoder = self.decoder();
        context.iter().try_for_each(|&id| decoder.append(id))?;
        decoder.take(false);
        Ok(decoder)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab.len()
    }

    /// A token as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.vocab.text(id).map(str::to_owned)
    }

    /// The id of a token as the vocabulary writes it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.vocab.id(token)
    }

    /// The token that begins a text, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The token that ends a text, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// The tokens that end a generation, in order: end of text, of turn and of message.
    pub fn eog_ids(&self) -> &[u32] {
        &self.0.eog
    }

    /// Whether a token is none of the text's: control tokens and the unknown token.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.is_special(id)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.0.bos)
            .field("eos", &self.0.eos)
            .finish_non_exhaustive()
    }
}

impl Model {
    fn encode(
        &self,
        vocab: &Vocab,
        text: &str,
        after_special: bool,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        match self {
            Self::Bpe { model, nfc: true } if !text.is_ascii() => {
                model.encode(vocab, &normalize::compose(text), out)
            }
            Self::Bpe { model, .. } => model.encode(vocab, text, out),
            Self::Spm(model) => model.encode(vocab, text, after_special, out),
            Self::WordPiece { normalizer, steps, model } => {
                let mut work = limits::Work::new(text.len());
                let (text, at_start) = normalizer.apply(text, &mut work)?;
                let mut words = words::Words::new(text, at_start);
                steps.iter().try_for_each(|step| step.run(&mut words, &mut work))?;
                // The vocabulary marks the start of a word.
                words
                    .iter()
                    .try_for_each(|word| model.encode_word(&format!("{}{word}", spm::SPACE), out))
            }
        }
    }
}
