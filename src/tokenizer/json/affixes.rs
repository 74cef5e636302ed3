//! What the post-processor of a tokenizer.json puts around a text.

use serde_json::Value;

use super::Part;
use crate::error::Result;
use crate::tokenizer::limits::MAX_AFFIX;

type Affixes = (Vec<u32>, Vec<u32>);

/// The tokens before and after a text.
pub(super) fn read(value: Option<&Value>) -> Result<Affixes> {
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    for part in Part::all("post_processor", value, "processors")? {
        // Each processes what the one before it has made.
        let (before, after) = affixes(part)?;
        prefix.splice(..0, before);
        suffix.extend(after);
    }
    Ok((prefix, suffix))
}

fn affixes(part: Part<'_>) -> Result<Affixes> {
    match part.kind() {
        // It moves offsets alone.
        "ByteLevel" => Ok((Vec::new(), Vec::new())),
        "BertProcessing" | "RobertaProcessing" => {
            Ok((vec![token(part, "cls")?], vec![token(part, "sep")?]))
        }
        "TemplateProcessing" => template(part),
        _ => Err(part.unsupported()),
    }
}

/// The id of `["[CLS]", 101]`.
fn token(part: Part<'_>, key: &str) -> Result<u32> {
    let id = part.get(key).and_then(|pair| id(pair.get(1)?));
    id.ok_or_else(|| part.error(format_args!("needs a token and its id in {key}")))
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn template(part: Part<'_>) -> Result<Affixes> {
    let pieces = part.get("single").and_then(Value::as_array);
    let pieces = pieces.ok_or_else(|| part.error("needs the list single"))?;
    let mut sides = vec![Vec::new()];
    for piece in pieces {
        if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
            let side = sides.last_mut().into_iter();
            let ids = special(part, name)?;
            side.for_each(|side| side.extend(&ids));
        } else if piece.pointer("/Sequence/id").and_then(Value::as_str) == Some("A") {
            sides.push(Vec::new());
        } else {
            return Err(part.error("has a piece that is neither a special token nor sequence A"));
        }
        if sides.iter().map(Vec::len).sum::<usize>() > MAX_AFFIX {
            return Err(part.error(format_args!("adds more than {MAX_AFFIX} tokens")));
        }
    }
    match <[_; 2]>::try_from(sides) {
        Ok([prefix, suffix]) => Ok((prefix, suffix)),
        Err(_) => Err(part.error("does not have the text exactly once")),
    }
}

/// The ids of a special token of a template.
fn special(part: Part<'_>, name: &str) -> Result<Vec<u32>> {
    let ids = part.get("special_tokens").and_then(|all| all.get(name)?.get("ids")?.as_array());
    let ids = ids.and_then(|ids| ids.iter().map(id).collect());
    ids.ok_or_else(|| part.error("has no ids of a special token"))
}
