//! The tokens that end a generation.
//!
//! Files name one end-of-text token at most, while chat models end their turns with another, so the
//! rest is known by its spelling.

use super::vocab::{Kind, Vocab};

/// Ends in whatever vocabulary they are spelled.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Ends of a file in code models; other models may spell text like this, so only special tokens count.
const FILE_ENDS: &[&str] = &[
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
];

/// Spelled like special tokens of a channel format, but part of what the model says.
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The sorted ids that end a generation: the `named` ones and those known by their spelling.
pub(super) fn find(vocab: &Vocab, named: &[Option<u32>]) -> Vec<u32> {
    let special = |id: &u32| matches!(vocab.kind(*id), Some(Kind::Control | Kind::UserDefined));
    let file_ends = FILE_ENDS.iter().filter_map(|text| vocab.id(text)).filter(special);
    let mut ids: Vec<u32> = named.iter().flatten().copied().collect();
    ids.extend(ENDS.iter().filter_map(|text| vocab.id(text)));
    ids.extend(file_ends);
    ids.sort_unstable();
    ids.dedup();
    let has = |text: &str| vocab.id(text).is_some();
    // In these formats the tokens end a message inside a turn, not the turn.
    let calls = has("<|return|>") && has("<|call|>")
        || has("<|flush|>") && (has("<|call|>") || has("<|calls|>"));
    for (text, inner) in [("<|end|>", calls), ("</s>", has("<|tool_response>"))] {
        if inner {
            ids.retain(|&id| vocab.id(text) != Some(id));
        }
    }
    ids
}

/// Corrects the kinds of tokens that converters are known to get wrong.
pub(super) fn correct_kinds(vocab: &mut Vocab, ends: &[u32]) {
    for &id in ends {
        vocab.set_kind(id, Kind::Control);
    }
    for text in SHOWN {
        if let Some(id) = vocab.id(text) {
            vocab.set_kind(id, Kind::UserDefined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(texts: &[&str]) -> Vec<u32> {
        let tokens = texts.iter().enumerate();
        let tokens = tokens.map(|(id, &text)| (id as u32, text.into(), Kind::Control));
        find(&Vocab::new(tokens).unwrap(), &[Some(0)])
    }

    #[test]
    fn ends_are_known_by_name_and_by_spelling() {
        assert_eq!(ends(&["<fin>", "a", "<|im_end|>", "</s>"]), [0, 2, 3]);
        assert_eq!(ends(&["<fin>", "<|end|>", "<|return|>", "<|call|>"]), [0, 2, 3]);
    }
}
