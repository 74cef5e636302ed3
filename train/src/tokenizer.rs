//! A byte-level BPE, made from the corpus.

use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as Decoder;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::byte_level::ByteLevel as Processor;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

use crate::error::{Error, Result, input};

/// Stands before, between and after stories.
pub const END: &str = "<|endoftext|>";

/// The name that GGUF has for how this tokenizer cuts a text into words.
pub const PRE: &str = "gpt-2";

/// Text to tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    end: u32,
}

impl Tokenizer {
    /// Learns `vocab` tokens from stories, [`END`] and the 256 bytes included.
    ///
    /// # Errors
    /// [`Error::Tokenizer`]; [`Error::Input`] if the text is too short for so many.
    pub fn train(stories: &[String], vocab: usize) -> Result<Self> {
        let words = ByteLevel::new(false, false, true);
        let mut tokenizer = TokenizerBuilder::<BPE, NFC, ByteLevel, Processor, Decoder>::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(words))
            .with_decoder(Some(Decoder::default()))
            .build()?;
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(vocab)
            .show_progress(false)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END, true)])
            .build();
        tokenizer.train(&mut trainer, stories.iter().map(String::as_str))?;
        let json = tokenizer.to_string(false)?;
        let mut tokenizer = Self::from_json(json.as_bytes())?;
        tokenizer.begin_with_end()?;
        let have = tokenizer.inner.get_vocab_size(true);
        if have != vocab {
            return input(format!("the text makes {have} tokens, not {vocab}"));
        }
        Ok(tokenizer)
    }

    /// Makes engines that read the file put [`END`] before a text, as in training.
    fn begin_with_end(&mut self) -> Result<()> {
        let template = TemplateProcessing::builder()
            .try_single(format!("{END} $A"))
            .and_then(|builder| builder.try_pair(format!("{END} $A {END} $B")))
            .map_err(Error::Input)?
            .special_tokens(vec![(END, self.end)])
            .build()
            .map_err(|error| Error::Input(error.to_string()))?;
        self.inner.with_post_processor(Some(template));
        Ok(())
    }

    fn from_json(json: &[u8]) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json)?;
        let Some(end) = inner.token_to_id(END) else {
            return input(format!("the tokenizer has no {END}"));
        };
        Ok(Self { inner, end })
    }

    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tokenizer`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_json(&std::fs::read(path).map_err(crate::error::io(path))?)
    }

    /// Writes a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.json()?).map_err(crate::error::io(path))
    }

    /// The content of a tokenizer.json.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn json(&self) -> Result<String> {
        Ok(self.inner.to_string(true)?)
    }

    /// The tokens of a text, without any before or after it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec())
    }

    /// The token between stories.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Number of tokens.
    pub fn vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The tokens' texts in the letters of the byte level, by id.
    pub(crate) fn tokens(&self) -> Result<Vec<String>> {
        let token = |id: u32| {
            let missing = || Error::Input(format!("the tokenizer has no token {id}"));
            self.inner.id_to_token(id).ok_or_else(missing)
        };
        (0..self.vocab() as u32).map(token).collect()
    }

    /// The merges, best first, as GGUF writes them.
    pub(crate) fn merges(&self) -> Result<Vec<String>> {
        let json: serde_json::Value = serde_json::from_str(&self.json()?)?;
        let Some(merges) = json["model"]["merges"].as_array() else {
            return input("the tokenizer has no merges");
        };
        let text = |merge: &serde_json::Value| match merge.as_array().map(Vec::as_slice) {
            Some([a, b]) => {
                Ok(format!("{} {}", a.as_str().unwrap_or(""), b.as_str().unwrap_or("")))
            }
            _ => input("a merge is no pair"),
        };
        merges.iter().map(text).collect()
    }
}
