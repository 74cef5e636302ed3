//! The pre-tokenizer of a tokenizer.json.

use serde_json::Value;

use super::Part;
use crate::error::Result;
use crate::tokenizer::normalize::is_punctuation;
use crate::tokenizer::pretokenizers::GPT2;
use crate::tokenizer::split::Splitter;
use crate::tokenizer::words::{Behavior, Pattern, Scheme, Step, bert_steps};

pub(super) fn read(value: Option<&Value>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for part in Part::all("pre_tokenizer", value, "pretokenizers")? {
        read_part(part, &mut steps)?;
    }
    Ok(steps)
}

fn split(pattern: Pattern, behavior: Behavior) -> Step {
    Step::Split { pattern, behavior, invert: false }
}

fn class(class: fn(char) -> bool, behavior: Behavior) -> Step {
    split(Pattern::Class(class), behavior)
}

fn read_part(part: Part<'_>, steps: &mut Vec<Step>) -> Result<()> {
    use Behavior::{Contiguous, Isolated, MergedWithNext, Removed};
    let last = match part.kind() {
        "BertPreTokenizer" => {
            steps.extend(bert_steps());
            return Ok(());
        }
        "ByteLevel" => {
            steps.extend(part.flag("add_prefix_space")?.then_some(Step::Space));
            if part.flag_or("use_regex", true)? {
                steps.push(split(Pattern::Regex(Splitter::new(GPT2)?), Isolated));
            }
            Step::Bytes
        }
        "CharDelimiterSplit" => split(Pattern::Char(part.character("delimiter")?), Removed),
        "Metaspace" => {
            let mark = part.character("replacement")?;
            steps.push(Step::Metaspace { mark, scheme: scheme(part)? });
            if !part.flag_or("split", true)? {
                return Ok(());
            }
            split(Pattern::Char(mark), MergedWithNext)
        }
        "Whitespace" => Step::Split {
            pattern: Pattern::Regex(Splitter::new(r"\w+|[^\w\s]+")?),
            behavior: Removed,
            invert: true,
        },
        "WhitespaceSplit" => class(char::is_whitespace, Removed),
        "Split" => Step::Split {
            pattern: part.pattern()?,
            behavior: behavior(part)?,
            invert: part.flag_or("invert", false)?,
        },
        "Punctuation" => {
            let behavior = part.get("behavior").map_or(Ok(Isolated), |_| behavior(part))?;
            class(is_punctuation, behavior)
        }
        "Digits" => match part.flag("individual_digits")? {
            true => class(char::is_numeric, Isolated),
            false => class(char::is_numeric, Contiguous),
        },
        "FixedLength" => {
            let length = part.get("length").map_or(Ok(5), |_| part.number("length"))?;
            if length == 0 {
                return Err(part.error("needs a length above zero"));
            }
            Step::FixedLength(length)
        }
        _ => return Err(part.unsupported()),
    };
    steps.push(last);
    Ok(())
}

fn behavior(part: Part<'_>) -> Result<Behavior> {
    Ok(match part.text("behavior")? {
        "Removed" => Behavior::Removed,
        "Isolated" => Behavior::Isolated,
        "MergedWithPrevious" => Behavior::MergedWithPrevious,
        "MergedWithNext" => Behavior::MergedWithNext,
        "Contiguous" => Behavior::Contiguous,
        _ => return Err(part.error("has an unknown behavior")),
    })
}

fn scheme(part: Part<'_>) -> Result<Scheme> {
    let spaced = part.flag_or("add_prefix_space", true)?;
    match part.get("prepend_scheme").map(|scheme| scheme.as_str().unwrap_or_default()) {
        None if spaced => Ok(Scheme::Always),
        None | Some("never") => Ok(Scheme::Never),
        Some("always") if spaced => Ok(Scheme::Always),
        Some("first") if spaced => Ok(Scheme::First),
        Some("always" | "first") => {
            Err(part.error("has a prepend_scheme that contradicts add_prefix_space"))
        }
        Some(_) => Err(part.error("has an unknown prepend_scheme")),
    }
}
