//! Tokenizers from the metadata of GGUF files.

use super::bpe::Bpe;
use super::charsmap::Charsmap;
use super::decoder::Rules;
use super::limits::shown;
use super::normalize::{self, Bert, Normalizer};
use super::pretokenizers::Row;
use super::special::{Bounds, Matcher, Specials};
use super::spelled::{self, Settings};
use super::split::Splitter;
use super::spm::{SPACE, Spm};
use super::stages::{self, Stages};
use super::unigram::Unigram;
use super::vocab::{Kind, Vocab};
use super::wordpiece::WordPiece;
use super::words::{Behavior, Pattern, Scheme, Step, bert_steps};
use super::{Inner, Model, Pipeline, eog};
use crate::error::{Result, tokenizer_error};

/// Typed look-up in the metadata of a model file.
///
/// A key that is missing and one of another type both give `None`.
pub trait MetadataSource {
    /// A string.
    fn string(&self, key: &str) -> Option<&str>;
    /// An array of strings.
    fn strings(&self, key: &str) -> Option<&[String]>;
    /// An array of floats or integers, as floats.
    fn floats(&self, key: &str) -> Option<Vec<f32>>;
    /// An array of integers of any width.
    fn integers(&self, key: &str) -> Option<Vec<i64>>;
    /// An integer of any width.
    fn integer(&self, key: &str) -> Option<i64>;
    /// A boolean.
    fn boolean(&self, key: &str) -> Option<bool>;
}

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

pub(super) fn build(metadata: &impl MetadataSource) -> Result<Inner> {
    let model = metadata.string(MODEL).ok_or_else(|| missing(MODEL, "a string"))?;
    let pre = metadata.string(PRE).unwrap_or("default");
    let kind: fn(Reader<_>) -> Result<Inner> = match (model, pre) {
        ("gemma4", _) | ("gpt2", "gemma4" | "granite-embed-multi-311m") => {
            |reader| marked(reader, true)
        }
        ("gpt2", "sarvam-moe") => |reader| marked(reader, false),
        ("gpt2", _) => gpt2,
        ("llama", _) => llama,
        ("bert", _) => bert,
        ("t5", _) => unigram,
        (other, _) => {
            return Err(tokenizer_error(format!("{MODEL}: unsupported tokenizer {other:?}")));
        }
    };
    kind(Reader { metadata, vocab: vocabulary(metadata)? })
}

fn missing(key: &str, what: &str) -> crate::Error {
    tokenizer_error(format!("{key} is missing or is not {what}"))
}

fn vocabulary(metadata: &impl MetadataSource) -> Result<Vocab> {
    const KINDS: &str = "tokenizer.ggml.token_type";
    let tokens = metadata.strings(TOKENS).ok_or_else(|| missing(TOKENS, "an array of strings"))?;
    if tokens.is_empty() {
        return Err(tokenizer_error(format!("{TOKENS} is empty")));
    }
    let kinds = metadata.integers(KINDS);
    if let Some(kinds) = kinds.as_ref().filter(|kinds| kinds.len() != tokens.len()) {
        let (kinds, tokens) = (kinds.len(), tokens.len());
        return Err(tokenizer_error(format!("{KINDS} has {kinds} entries for {tokens} tokens")));
    }
    let kind = |id: usize| match kinds.as_ref().map(|kinds| kinds[id]) {
        None => Ok(Kind::Normal),
        Some(value) => Kind::from_ggml(value)
            .ok_or_else(|| tokenizer_error(format!("{KINDS} is {value} at token {id}"))),
    };
    let kinds = (0..tokens.len()).map(kind).collect::<Result<Vec<_>>>()?;
    Vocab::new(tokens.iter().zip(kinds).enumerate().map(|(id, (text, kind))| {
        // Some files have empty tokens as padding, more than one; they need texts of their own.
        let text =
            if text.is_empty() { format!("[EMPTY_{id}]").into() } else { text.as_str().into() };
        (id as u32, text, kind)
    }))
}

/// Metadata with the vocabulary that its ids refer to.
struct Reader<'m, M> {
    metadata: &'m M,
    vocab: Vocab,
}

/// What a kind of tokenizer adds to a text where the metadata do not say.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
}

/// The special tokens around a text and the named ends.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    eog: Vec<u32>,
}

impl<M: MetadataSource> Reader<'_, M> {
    fn flag(&self, name: &str, default: bool) -> bool {
        self.metadata.boolean(&format!("tokenizer.ggml.{name}")).unwrap_or(default)
    }

    /// The id under `tokenizer.ggml.{name}_token_id`, or the default if the vocabulary has it.
    fn id(&self, name: &str, default: Option<u32>) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(value) = self.metadata.integer(&key) else {
            return Ok(default.filter(|&id| self.vocab.text(id).is_some()));
        };
        let id = u32::try_from(value).ok().filter(|&id| self.vocab.text(id).is_some());
        id.map(Some).ok_or_else(|| {
            let size = self.vocab.len();
            tokenizer_error(format!("{key} is {value}, but there are {size} tokens"))
        })
    }

    fn ends(&mut self, defaults: Defaults) -> Result<Ends> {
        let bos = self.id("bos", defaults.bos)?;
        let eos = self.id("eos", defaults.eos)?;
        let eog = eog::find(&self.vocab, &[eos, self.id("eot", None)?, self.id("eom", None)?]);
        eog::correct_kinds(&mut self.vocab, &eog);
        let prefix = added("bos", self.flag("add_bos_token", defaults.add_bos), bos)?;
        let suffix = added("eos", self.flag("add_eos_token", defaults.add_eos), eos)?;
        Ok(Ends { bos, eos, prefix, suffix, eog })
    }

    /// Tokens that swallow spaces: no key of the format says so, only the model's own tokenizer.
    fn bounds(&self) -> impl Fn(&str) -> Bounds + use<M> {
        let name = self.metadata.string("general.name").unwrap_or_default().to_lowercase();
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let pre = self.metadata.string(PRE).unwrap_or_default();
        let mask = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre);
        move |text| Bounds {
            left: mask && text == "<mask>",
            right: phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text),
            ..Bounds::default()
        }
    }

    fn finish(self, model: Model, rules: Rules, ends: Ends) -> Result<Inner> {
        let specials = Specials::new(&self.vocab, self.bounds())?;
        let Ends { bos, eos, prefix, suffix, eog } = ends;
        let pipeline = Pipeline::Own { specials, model };
        let raw_special = true;
        Ok(Inner { vocab: self.vocab, pipeline, prefix, suffix, rules, raw_special, bos, eos, eog })
    }
}

/// What stands around a text that wants the token `name` if `add`.
fn added(name: &str, add: bool, id: Option<u32>) -> Result<Vec<u32>> {
    match (add, id) {
        (false, _) => Ok(Vec::new()),
        (true, Some(id)) => Ok(vec![id]),
        (true, None) => Err(tokenizer_error(format!(
            "a text wants a {name} token, but tokenizer.ggml.{name}_token_id is missing"
        ))),
    }
}

fn gpt2<M: MetadataSource>(mut reader: Reader<'_, M>) -> Result<Inner> {
    let row = Row::named(reader.metadata.string(PRE).unwrap_or("default"))?;
    let merges = reader.metadata.strings(MERGES);
    let merges = merges.ok_or_else(|| missing(MERGES, "an array of strings"))?;
    let model = Bpe::new(&reader.vocab, merges, row.splitters()?, row.ignore_merges)?;
    let defaults = Defaults { bos: None, eos: None, add_bos: row.add_bos, add_eos: false };
    let ends = reader.ends(defaults)?;
    reader.finish(Model::Bpe { model, nfc: row.nfc }, Rules::ByteLevel, ends)
}

fn llama<M: MetadataSource>(mut reader: Reader<'_, M>) -> Result<Inner> {
    let space_prefix = reader.flag("add_space_prefix", true);
    let unknown = reader.id("unknown", Some(0))?;
    let scores = reader.metadata.floats("tokenizer.ggml.scores");
    let model = Spm::new(&reader.vocab, scores, unknown, space_prefix)?;
    let defaults = Defaults { bos: Some(1), eos: Some(2), add_bos: true, add_eos: false };
    let ends = reader.ends(defaults)?;
    reader.finish(Model::Spm(model), Rules::sentencepiece(space_prefix), ends)
}

fn bert<M: MetadataSource>(mut reader: Reader<'_, M>) -> Result<Inner> {
    let unknown = reader.id("unknown", Some(100))?;
    let unknown = unknown.ok_or_else(|| missing("tokenizer.ggml.unknown_token_id", "a token"))?;
    let lowercase = reader.flag("normalizer.lowercase", true);
    let accents = reader.metadata.boolean("tokenizer.ggml.normalizer.strip_accents");
    let normalizer = Normalizer(vec![normalize::Step::Bert(Bert {
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: accents.unwrap_or(lowercase),
        lowercase,
    })]);
    let model = WordPiece::marked(&reader.vocab, unknown)?;
    // Older files name the first token CLS.
    let cls = reader.id("cls", Some(101))?;
    // A text ends with one separator, whether a file calls it that or EOS ("seperator" is the key).
    let sep = reader.id("seperator", Some(102))?;
    let wanted = reader.flag("add_sep_token", true) || reader.flag("add_eos_token", true);
    let defaults = Defaults { bos: cls, eos: sep, add_bos: true, add_eos: true };
    let mut ends = reader.ends(defaults)?;
    ends.suffix = sep.or(ends.eos).filter(|_| wanted).into_iter().collect();
    let model = Model::WordPiece { normalizer, steps: bert_steps(), model };
    reader.finish(model, Rules::Phantom, ends)
}

/// BPE over characters, as in gemma 4's own tokenizer.json: spaces have a mark, characters without a
/// token are spelled in bytes, and no merge crosses the end of a line. `begun`: every text has the first
/// token, even where the file says no.
fn marked<M: MetadataSource>(mut reader: Reader<'_, M>, begun: bool) -> Result<Inner> {
    let merges = reader.metadata.strings(MERGES);
    let merges = merges.ok_or_else(|| missing(MERGES, "an array of strings"))?;
    let pair = |(rank, merge): (usize, &String)| {
        let pair = merge.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) = pair.ok_or_else(|| {
            tokenizer_error(format!("{MERGES}: merge {rank} ({}) is not two tokens", shown(merge)))
        })?;
        Ok((left.to_owned(), right.to_owned()))
    };
    let unknown = reader.id("unknown", None)?;
    let settings = Settings {
        merges: merges.iter().enumerate().map(pair).collect::<Result<_>>()?,
        unknown: unknown.and_then(|id| reader.vocab.text(id)).map(str::to_owned),
        fuse_unknown: true,
        byte_fallback: true,
        ..Settings::default()
    };
    let model = spelled::Bpe::new(&reader.vocab, settings, 0..0)?;
    let mut ends =
        reader.ends(Defaults { bos: None, eos: None, add_bos: begun, add_eos: false })?;
    if begun {
        ends.prefix = added("bos", true, ends.bos)?;
    }
    let space = Pattern::Literal(" ".into());
    let lines = Pattern::Regex(Splitter::new(r"[^\n]+|\n+")?);
    let stages = Stages {
        raw: specials(&reader.vocab)?,
        normalizer: Normalizer(vec![normalize::Step::Replace {
            pattern: space,
            content: SPACE.to_string(),
        }]),
        normalized: Matcher::new(std::iter::empty::<(u32, &str, Bounds)>())?,
        steps: vec![Step::Split { pattern: lines, behavior: Behavior::Isolated, invert: false }],
        model: stages::Model::Bpe(model),
    };
    let rules = Rules::sentencepiece(false);
    Ok(staged(reader.vocab, stages, rules, ends))
}

/// The tokens that are found in a text as it is.
fn specials(vocab: &Vocab) -> Result<Matcher> {
    Matcher::new(vocab.iter().filter_map(|(id, text, kind)| {
        let special = matches!(kind, Kind::Control | Kind::Unknown);
        let left = special && text == "<mask>";
        let wanted = special || kind == Kind::UserDefined;
        wanted.then_some((id, text, Bounds { left, special, ..Bounds::default() }))
    }))
}

fn staged(vocab: Vocab, stages: Stages, rules: Rules, ends: Ends) -> Inner {
    let Ends { bos, eos, prefix, suffix, eog } = ends;
    let pipeline = Pipeline::Staged(stages);
    Inner { vocab, pipeline, prefix, suffix, rules, raw_special: false, bos, eos, eog }
}

fn unigram<M: MetadataSource>(mut reader: Reader<'_, M>) -> Result<Inner> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores = reader.metadata.floats(SCORES).ok_or_else(|| missing(SCORES, "an array"))?;
    if scores.len() != reader.vocab.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(tokenizer_error(format!("{SCORES} needs one number for every token")));
    }
    let unknown = reader.id("unknown", Some(2))?;
    let ends = reader.ends(Defaults { bos: None, eos: Some(1), add_bos: false, add_eos: true })?;
    let scores = scores.into_iter().map(f64::from).collect();
    let model = Unigram::new(&reader.vocab, scores, unknown, false)?;
    let raw = specials(&reader.vocab)?;
    let spaced = reader.flag("add_space_prefix", true);
    let scheme = if spaced { Scheme::Always } else { Scheme::Never };
    let mark = Step::Metaspace { mark: SPACE, scheme };
    let (pattern, behavior) = (Pattern::Char(SPACE), Behavior::MergedWithNext);
    let stages = Stages {
        raw,
        normalizer: unigram_normalizer(&reader)?,
        normalized: Matcher::new(std::iter::empty::<(u32, &str, Bounds)>())?,
        steps: vec![mark, Step::Split { pattern, behavior, invert: false }],
        model: stages::Model::Unigram(model),
    };
    let rules = Rules::Metaspace { mark: SPACE, drop_first: spaced };
    Ok(staged(reader.vocab, stages, rules, ends))
}

/// The precompiled character map of SentencePiece, then its rule for runs of spaces.
fn unigram_normalizer<M: MetadataSource>(reader: &Reader<'_, M>) -> Result<Normalizer> {
    use normalize::Step;
    const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
    let mut steps = Vec::new();
    if let Some(bytes) = reader.metadata.integers(CHARSMAP).filter(|bytes| !bytes.is_empty()) {
        let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte as u8).collect();
        let map = Charsmap::new(&bytes);
        let map = map.map_err(|e| tokenizer_error(format!("{CHARSMAP}: {e}")))?;
        steps.push(Step::Charsmap(map));
    }
    if reader.flag("remove_extra_whitespaces", false) {
        steps.push(Step::Strip { left: false, right: true });
        let pattern = Pattern::Regex(Splitter::new(" {2,}")?);
        steps.push(Step::Replace { pattern, content: SPACE.to_string() });
    }
    Ok(Normalizer(steps))
}
