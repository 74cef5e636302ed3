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
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<REPO>",
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
    let inner: Vec<u32> = inner(vocab).map(|(id, _)| id).collect();
    ids.retain(|id| !inner.contains(id));
    ids
}

/// The tokens that in some formats end a message inside a turn, or nothing, and what they are there.
fn inner(vocab: &Vocab) -> impl Iterator<Item = (u32, Kind)> {
    let has = |text: &str| vocab.id(text).is_some();
    let calls = has("<|call|>") || has("<|calls|>");
    [
        ("<|end|>", calls && (has("<|return|>") || has("<|flush|>")), Kind::UserDefined),
        ("</s>", has("<|tool_response>"), Kind::Normal),
    ]
    .into_iter()
    .filter_map(|(text, inner, kind)| Some((vocab.id(text).filter(|_| inner)?, kind)))
}

/// Corrects the kinds of tokens that converters are known to get wrong.
pub(super) fn correct_kinds(vocab: &mut Vocab, ends: &[u32]) {
    let shown = SHOWN.iter().filter_map(|text| Some((vocab.id(text)?, Kind::UserDefined)));
    let kinds: Vec<_> = inner(vocab).chain(shown).collect();
    for &id in ends {
        vocab.set_kind(id, Kind::Control);
    }
    for (id, kind) in kinds {
        vocab.set_kind(id, kind);
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
        assert_eq!(ends(&["<fin>", "<|end|>", "<|return|>", "<|calls|>"]), [0, 2, 3]);
        assert_eq!(ends(&["<fin>", "<|end|>", "<|return|>", "[PAD]", "<REPO>"]), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn ends_inside_a_turn_are_no_control_tokens() {
        let kinds = |texts: &[&str]| {
            let tokens = texts.iter().enumerate();
            let tokens = tokens.map(|(id, &text)| (id as u32, text.into(), Kind::Control));
            let mut vocab = Vocab::new(tokens).unwrap();
            let found = find(&vocab, &[]);
            correct_kinds(&mut vocab, &found);
            (0..texts.len() as u32).map(|id| vocab.kind(id).unwrap()).collect::<Vec<_>>()
        };
        use Kind::{Control, Normal, UserDefined};
        assert_eq!(kinds(&["<|end|>", "<|return|>", "<|call|>"]), [UserDefined, Control, Control]);
        assert_eq!(kinds(&["</s>", "<|tool_response>"]), [Normal, Control]);
        assert_eq!(kinds(&["</s>", "<|end|>"]), [Control, Control]);
    }
}
