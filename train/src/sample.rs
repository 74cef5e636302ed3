//! Stories that a model tells, as more text to learn from.

use goldcrest::{GenerationParams, Model, SamplingParams};

use crate::error::{Error, Result};

/// Longest story, in tokens.
const LONGEST: usize = 1000;

/// A story of the model; the same seed tells the same story.
///
/// # Errors
/// [`Error::Engine`]; [`Error::Input`] if the model knows no token to begin with.
pub fn story(model: &Model, seed: u64, temperature: f32, top_p: f32) -> Result<String> {
    let tokenizer = model.tokenizer()?;
    let begin = tokenizer.encode("")?;
    if begin.is_empty() {
        return Err(Error::Input("the model has no token that begins a text".into()));
    }
    let mut ids = begin.clone();
    let mut session = model.session()?;
    while ids.len() < LONGEST {
        // When the context is full, its second half begins the next one.
        let keep = if ids.len() == begin.len() { 0 } else { ids.len() - session.context() / 2 };
        session.clear();
        session.push(&ids[keep..])?;
        let room = session.context() - (ids.len() - keep);
        let sampling = SamplingParams::default()
            .temperature(temperature)
            .top_k(0)
            .top_p(top_p)
            .min_p(0.0)
            .seed(seed.wrapping_add(ids.len() as u64));
        let params = GenerationParams::from(sampling).max_tokens(room);
        let before = ids.len();
        for token in session.generate(params)? {
            ids.push(token?.id);
        }
        if ids.len() - before < room {
            break;
        }
    }
    let text = tokenizer.decode(&ids[begin.len()..], true)?;
    Ok(whole_sentences(text.trim()).to_string())
}

/// The text up to the last end of a sentence.
fn whole_sentences(text: &str) -> &str {
    let end = text.rfind(['.', '!', '?', '"']).map_or(0, |end| end + 1);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_sentence_goes() {
        assert_eq!(whole_sentences("\"Oh!\" he said. And th"), "\"Oh!\" he said.");
        assert_eq!(whole_sentences("no end"), "");
    }
}
