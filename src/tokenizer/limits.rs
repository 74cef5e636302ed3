//! How much a tokenizer may ask for. Tokenizers come with models of strangers, and what some of their
//! parts cost is a product of the numbers in the file; published tokenizers stay far below each limit.

use crate::error::{Error, tokenizer_error};

/// Steps of a normalizer, pre-tokenizer, post-processor or decoder. Each is a pass over the text;
/// published ones have ten or so.
pub(super) const MAX_STEPS: usize = 128;

/// How many times longer than a text its normal form may be, or the text of a token than the token:
/// steps that double a text cost little in a file. No character has a normal form of more than 11
/// times its bytes.
pub(super) const MAX_GROWTH: usize = 64;

/// Bytes of a token that is looked for at every place of a text (a special token, a piece of a unigram
/// or WordPiece model), which may cost as many steps at each. SentencePiece trains no piece of more
/// than 512 characters, which are 2048 bytes.
pub(super) const MAX_PIECE: usize = 2048;

/// Bytes of all special tokens. An automaton needs about 40 bytes for each while it is built; models
/// whose images or sounds are special tokens have 1 MB of them.
pub(super) const MAX_SPECIAL: usize = 4 << 20;

/// Tokens before or after a text.
pub(super) const MAX_AFFIX: usize = 256;

/// Bytes of a pattern; compiled, it is limited by the engines.
pub(super) const MAX_PATTERN: usize = 1 << 16;

/// Steps that the patterns of a tokenizer may take on a text, which a published one comes nowhere
/// near: it takes a few a byte.
pub(super) struct Work(usize);

impl Work {
    /// For a text of `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        Self((16 << 20) + 512 * length)
    }

    /// Takes `steps` off what is left.
    pub(super) fn take(&mut self, steps: usize) -> Result<(), Error> {
        let left = self.0.checked_sub(steps).ok_or_else(|| {
            tokenizer_error("a pattern gave up on the text: it takes too many steps")
        });
        self.0 = left?;
        Ok(())
    }
}

/// The start of a text of the file for an error, which is not to be as long as the file.
pub(super) fn shown(text: &str) -> String {
    const LENGTH: usize = 100;
    match text.len() {
        ..=LENGTH => format!("{text:?}"),
        length => {
            format!("{:?}... ({length} bytes)", &text[..text.floor_char_boundary(LENGTH)])
        }
    }
}

/// Adds to an error what part of the tokenizer it is about.
pub(super) fn of_part(part: &str) -> impl Fn(Error) -> Error {
    move |error| tokenizer_error(format!("{part}: {error}"))
}

/// Checks the number of steps of `part`.
pub(super) fn check_steps(part: &str, steps: usize) -> Result<(), Error> {
    if steps > MAX_STEPS {
        return Err(tokenizer_error(format!("{part}: {steps} steps or more, at most {MAX_STEPS}")));
    }
    Ok(())
}

/// Bytes that `part` may make of `length`.
pub(super) fn grown(length: usize) -> usize {
    // Positions in a text are 32 bits wide, and its spelling may be three times as long.
    ((length + 1) * MAX_GROWTH).min(u32::MAX as usize / 4)
}

/// The error of more than [`grown`] bytes.
pub(super) fn outgrown(part: &str, limit: usize) -> Error {
    tokenizer_error(format!("{part}: the text becomes longer than {limit} bytes"))
}
