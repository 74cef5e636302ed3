//! From the ids of a generation to its text.

use super::stop::StopFilter;
use crate::error::Result;
use crate::tokenizer::{Decoder, Tokenizer};

/// Decodes ids and leaves out stop strings.
pub(super) struct Text {
    tokenizer: Tokenizer,
    decoder: Decoder,
    stop: StopFilter,
}

impl Text {
    /// The text that follows `context`.
    pub(super) fn new(tokenizer: &Tokenizer, context: &[u32], stop: Vec<String>) -> Result<Self> {
        let tokens = tokenizer.vocab_size();
        let known: Vec<u32> =
            context.iter().copied().filter(|&id| (id as usize) < tokens).collect();
        Ok(Self {
            tokenizer: tokenizer.clone(),
            decoder: tokenizer.decoder_after(&known)?,
            stop: StopFilter::new(stop),
        })
    }

    /// The text that a token brings, and whether it completes a stop string.
    pub(super) fn push(&mut self, id: u32) -> Result<(String, bool)> {
        // An embedding may have rows that no token uses.
        if id as usize >= self.tokenizer.vocab_size() {
            return Ok((String::new(), false));
        }
        if self.tokenizer.is_special(id)
            && let Some(name) = self.tokenizer.id_to_token(id)
            && let Some(text) = self.stop.push_control(&name)
        {
            return Ok((text, true));
        }
        Ok(self.stop.push(&self.decoder.push(id)?))
    }

    /// What is held back as the start of a stop string.
    pub(super) fn take_held(&mut self) -> String {
        self.stop.finish()
    }

    /// What was held back, and what is left of an unfinished character.
    pub(super) fn finish(&mut self) -> String {
        let (mut text, stopped) = self.stop.push(&self.decoder.finish());
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &str = r###"{
        "added_tokens": [
            {"id": 4, "content": "<s>", "special": true},
            {"id": 5, "content": "</s>", "special": true}],
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "gold": 1, "##crest": 2, "sings": 3}}
    }"###;

    fn text(stop: &str) -> Text {
        let tokenizer = Tokenizer::from_json(TOKENIZER.as_bytes(), None).unwrap();
        Text::new(&tokenizer, &[], vec![stop.to_owned()]).unwrap()
    }

    /// The text of `ids`, and whether the last of them completed the stop string.
    fn run(stop: &str, ids: &[u32]) -> (String, bool) {
        let mut text = text(stop);
        let mut out = String::new();
        for (i, &id) in ids.iter().enumerate() {
            let (piece, stopped) = text.push(id).unwrap();
            out += &piece;
            assert!(!stopped || i + 1 == ids.len(), "{stop}: stopped at {i}");
            if stopped {
                return (out, true);
            }
        }
        (out + &text.finish(), false)
    }

    #[test]
    fn stop_strings_see_the_tokens_that_the_text_leaves_out() {
        assert_eq!(run("</s>", &[1, 2, 5]), ("goldcrest".into(), true));
        assert_eq!(run("crest</s>", &[1, 2, 5]), ("gold".into(), true));
        assert_eq!(run("</s><s> sings", &[1, 5, 4, 3]), ("gold".into(), true));
        assert_eq!(run("s>", &[1, 5, 2, 9]), ("goldcrest".into(), false));
        assert_eq!(run("goldcrest", &[1, 5, 2]), (String::new(), true));
    }
}
