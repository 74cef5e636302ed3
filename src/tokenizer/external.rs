//! Encoding with the components of the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::pattern::Invert;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, ModelWrapper, NormalizedString, Normalizer,
    NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    SplitDelimiterBehavior,
};

use super::split::Splitter;
use crate::error::{Result, tokenizer_error};

/// Normalizer, added tokens, pre-tokenizers and model.
pub(super) struct External {
    normalizer: Option<NormalizerWrapper>,
    /// Matches every added token.
    added: AddedVocabulary,
    /// Matches those alone that are not special.
    plain: AddedVocabulary,
    steps: Vec<Step>,
    model: ModelWrapper,
}

/// One pre-tokenizer.
pub(super) enum Step {
    /// Ours, because the crate's ends the text in silence where its pattern gives up.
    Split {
        splitter: Splitter,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Other(PreTokenizerWrapper),
}

impl External {
    pub(super) fn new(
        normalizer: Option<NormalizerWrapper>,
        tokens: Vec<AddedToken>,
        steps: Vec<Step>,
        model: ModelWrapper,
    ) -> Result<Self> {
        let mut added = AddedVocabulary::new();
        added
            .add_tokens(tokens, &model, normalizer.as_ref())
            .map_err(|e| tokenizer_error(format!("added tokens: {e}")))?;
        let mut plain = added.clone();
        plain.set_encode_special_tokens(true);
        Ok(Self { normalizer, added, plain, steps, model })
    }

    /// The id that an added token has come to have.
    pub(super) fn added_id(&self, content: &str) -> Option<u32> {
        self.added.token_to_id(content, &self.model)
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, parse_special: bool, out: &mut Vec<u32>) -> Result<()> {
        let failed = |error| tokenizer_error(format!("cannot tokenize the text: {error}"));
        let added = if parse_special { &self.added } else { &self.plain };
        guarded(|| {
            let mut words = added.extract_and_normalize(self.normalizer.as_ref(), text);
            for step in &self.steps {
                step.run(&mut words).map_err(failed)?;
            }
            // Offsets are of no use here, and asking for none saves computing them.
            let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
            for (word, _, tokens) in splits {
                match tokens {
                    Some(tokens) => out.extend(tokens.iter().map(|token| token.id)),
                    None => {
                        let tokens = self.model.tokenize(word).map_err(failed)?;
                        out.extend(tokens.iter().map(|token| token.id));
                    }
                }
            }
            Ok(())
        })
    }
}

impl Step {
    fn run(&self, words: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::Split { splitter, behavior, invert: false } => {
                words.split(|_, word| word.split(splitter, *behavior))
            }
            Self::Split { splitter, behavior, invert: true } => {
                words.split(|_, word| word.split(Invert(splitter), *behavior))
            }
            Self::Other(step) => step.pre_tokenize(words),
        }
    }
}

/// Turns a panic inside the crate into an error: it indexes its tables with values of the file, such as
/// the offsets of a precompiled character map, which it takes for valid.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(tokenizer_error("the tokenizer's tables contradict each other")))
}

/// The text in Unicode normal form C.
pub(super) fn compose(text: &str) -> Result<String> {
    let mut normalized = NormalizedString::from(text);
    tokenizers::normalizers::NFC
        .normalize(&mut normalized)
        .map_err(|e| tokenizer_error(format!("cannot normalize the text: {e}")))?;
    Ok(normalized.get().to_owned())
}
