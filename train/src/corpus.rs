//! Stories from text files, as one stream of tokens.

use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Result, input, io};
use crate::model::Batch;
use crate::random::{derive, shuffled};
use crate::tokenizer::Tokenizer;

/// The line between two stories.
pub const SEPARATOR: &str = "***";

/// Longest paragraph that is taken for a title, in bytes.
const TITLE: usize = 90;

/// The stories of the books in `dir`, in the order of the files' names.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), and [`Error::Input`](crate::Error::Input) if there are none.
pub fn books(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(io(dir))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| Ok(entry.map_err(io(dir))?.path()))
        .filter(|path| !matches!(path, Ok(path) if path.extension() != Some("txt".as_ref())))
        .collect::<Result<_>>()?;
    paths.sort();
    let stories: Vec<Vec<String>> =
        paths.iter().map(|path| stories(path)).collect::<Result<_>>()?;
    let stories = stories.concat();
    if stories.is_empty() {
        return input(format!("{}: no stories", dir.display()));
    }
    Ok(stories)
}

/// The stories of one file.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io).
pub fn stories(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(io(path))?;
    Ok(split(&text).map(clean).filter(|story| !story.is_empty()).collect())
}

fn split(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let stories: Vec<Vec<&str>> =
        lines.split(|line| line.trim() == SEPARATOR).map(<[&str]>::to_vec).collect();
    stories.into_iter()
}

/// A story without its title, with one empty line between paragraphs.
///
/// The title goes so that a text that is begun by hand ("Once upon a time") stands where the
/// model saw such beginnings.
fn clean(lines: Vec<&str>) -> String {
    let mut paragraphs: Vec<String> = lines
        .split(|line| line.is_empty())
        .filter(|paragraph| !paragraph.is_empty())
        .map(|paragraph| paragraph.join("\n"))
        .filter(|paragraph| !is_furniture(paragraph))
        .collect();
    while paragraphs.len() > 1 && is_title(&paragraphs[0]) {
        paragraphs.remove(0);
    }
    paragraphs.join("\n\n")
}

/// Short, and without what ends a sentence.
fn is_title(paragraph: &str) -> bool {
    let sentence = |c| matches!(c, '.' | '!' | '?' | ':' | ';' | ',' | '"' | '\'' | '-' | ')');
    paragraph.len() <= TITLE
        && (!paragraph.ends_with(sentence) || !paragraph.contains(char::is_lowercase))
}

/// Marks of pictures and breaks: no letter, or one bracket around all of it.
fn is_furniture(paragraph: &str) -> bool {
    let bracketed = paragraph.starts_with('[') && paragraph.ends_with(']');
    bracketed || !paragraph.contains(char::is_alphabetic)
}

/// The stories that occur in both lists, by any 200 bytes of one in the other's text.
pub fn overlap(train: &[String], held_out: &[String]) -> usize {
    const PIECE: usize = 200;
    let pieces: std::collections::HashSet<&[u8]> =
        held_out.iter().flat_map(|story| story.as_bytes().chunks_exact(PIECE)).collect();
    train
        .par_iter()
        .filter(|story| story.as_bytes().windows(PIECE).any(|piece| pieces.contains(piece)))
        .count()
}

/// Stories as tokens, an end of text before, between and after them.
pub struct Stream {
    tokens: Vec<u16>,
    /// Bytes of the stories.
    bytes: usize,
}

impl Stream {
    /// Encodes stories.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer).
    pub fn new(tokenizer: &Tokenizer, stories: &[String]) -> Result<Self> {
        let end = tokenizer.end();
        let encoded: Vec<Vec<u32>> =
            stories.par_iter().map(|story| tokenizer.encode(story)).collect::<Result<_>>()?;
        let mut tokens = vec![end as u16];
        for story in encoded {
            // Ids fit: no vocabulary here has more than 2^16 tokens.
            tokens.extend(story.into_iter().map(|id| id as u16));
            tokens.push(end as u16);
        }
        Ok(Self { tokens, bytes: stories.iter().map(String::len).sum() })
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to learn from.
    pub fn is_empty(&self) -> bool {
        self.tokens.len() < 2
    }

    /// Bytes of the text.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The sequence of `seq_len` tokens from `start`, and what follows each of them.
    fn window(&self, start: usize, seq_len: usize, batch: &mut Batch) {
        let ids = |from: usize| self.tokens[from..][..seq_len].iter().map(|&id| u32::from(id));
        batch.inputs.extend(ids(start));
        batch.targets.extend(ids(start + 1));
    }

    /// Consecutive sequences from the start, `sequences` to a batch; every `stride`-th batch.
    pub fn batches(
        &self,
        sequences: usize,
        seq_len: usize,
        stride: usize,
    ) -> impl Iterator<Item = Batch> {
        let windows = (self.tokens.len() - 1) / seq_len;
        let count = windows / sequences;
        (0..count).step_by(stride).map(move |i| {
            let mut batch = Batch { seq_len, inputs: Vec::new(), targets: Vec::new() };
            for window in i * sequences..(i + 1) * sequences {
                self.window(window * seq_len, seq_len, &mut batch);
            }
            batch
        })
    }

    /// All of it in sequences of at most `seq_len` tokens; the last one is shorter.
    pub fn sequences(&self, seq_len: usize) -> impl Iterator<Item = Batch> {
        let last = self.tokens.len() - 1;
        (0..last).step_by(seq_len).map(move |start| {
            let seq_len = seq_len.min(last - start);
            let mut batch = Batch { seq_len, inputs: Vec::new(), targets: Vec::new() };
            self.window(start, seq_len, &mut batch);
            batch
        })
    }
}

/// Batches of a stream in random order: in each epoch every piece comes once, and each epoch cuts
/// the stream at other places.
pub(crate) struct Batches<'a> {
    stream: &'a Stream,
    sequences: usize,
    seq_len: usize,
    seed: u64,
    /// An epoch and the order of its pieces.
    order: (u64, Vec<u32>),
}

impl<'a> Batches<'a> {
    pub(crate) fn new(
        stream: &'a Stream,
        sequences: usize,
        seq_len: usize,
        seed: u64,
    ) -> Result<Self> {
        if stream.len() < 2 * seq_len + 2 {
            return input(format!("{} tokens: too few for pieces of {seq_len}", stream.len()));
        }
        let order = (0, Self::order(stream, seq_len, seed, 0));
        Ok(Self { stream, sequences, seq_len, seed, order })
    }

    fn order(stream: &Stream, seq_len: usize, seed: u64, epoch: u64) -> Vec<u32> {
        // One piece less than fit, since an epoch begins anywhere in the first piece.
        shuffled(derive(seed, epoch), (stream.len() - 1) / seq_len - 1)
    }

    /// The batch of a step: a function of seed and step alone, so that there is nothing to resume.
    pub(crate) fn get(&mut self, step: u64) -> Batch {
        let Self { stream, sequences, seq_len, seed, .. } = *self;
        let mut batch = Batch { seq_len, inputs: Vec::new(), targets: Vec::new() };
        let windows = self.order.1.len() as u64;
        for i in step * sequences as u64..(step + 1) * sequences as u64 {
            let epoch = i / windows;
            if self.order.0 != epoch {
                self.order = (epoch, Self::order(stream, seq_len, seed, epoch));
            }
            let offset = derive(derive(seed, epoch), u64::MAX) as usize % seq_len;
            let window = self.order.1[(i % windows) as usize] as usize;
            stream.window(offset + window * seq_len, seq_len, &mut batch);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_and_marks_go() {
        let text = "The Pool of Tears\n\nOnce there was\na pool.\n\n[Illustration]\n\n* * *\n\n\n\
                    It was deep.\n\n***\n\nII.\n\nMUD\n\n\"Well!\" said she.\n\n***\n";
        let stories: Vec<String> = split(text).map(clean).filter(|s| !s.is_empty()).collect();
        assert_eq!(stories, ["Once there was\na pool.\n\nIt was deep.", "\"Well!\" said she."]);
    }

    #[test]
    fn overlap_is_found_where_it_is() {
        let held_out = ["b".repeat(150) + &"c".repeat(300)];
        let train = ["x".repeat(500), "y".repeat(77) + &held_out[0] + "y", "c".repeat(120)];
        assert_eq!(overlap(&train, &held_out), 1);
    }

    #[test]
    fn an_epoch_has_every_piece_once() {
        let stream = Stream { tokens: (0..1000).collect(), bytes: 1000 };
        let mut batches = Batches::new(&stream, 3, 10, 7).unwrap();
        // 98 pieces fit wherever the epoch begins: 32 batches, and two pieces of the next.
        let mut inputs: Vec<u32> = (0..33).flat_map(|step| batches.get(step).inputs).collect();
        inputs.truncate(980);
        inputs.sort_unstable();
        assert!(inputs.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let batch = batches.get(5);
        assert!(batch.inputs.iter().zip(&batch.targets).all(|(a, b)| a + 1 == *b));
    }

    #[test]
    fn sequences_cover_a_stream() {
        let stream = Stream { tokens: (0..101).collect(), bytes: 1 };
        let targets: Vec<u32> = stream.sequences(30).flat_map(|batch| batch.targets).collect();
        assert_eq!(targets, (1..101).collect::<Vec<u32>>());
        assert_eq!(stream.batches(2, 10, 2).count(), 3);
    }
}
