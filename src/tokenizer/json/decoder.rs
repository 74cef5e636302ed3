//! The decoder of a tokenizer.json as rules that work token by token.

use serde_json::Value;

use super::Part;
use crate::error::Result;
use crate::tokenizer::decoder::Rules;

pub(super) fn rules(value: Option<&Value>) -> Result<Rules> {
    let parts = Part::all("decoder", value, "decoders")?;
    let [part] = parts[..] else {
        return if parts.is_empty() { Ok(Rules::Spaced) } else { sequence(&parts) };
    };
    match part.kind() {
        "ByteLevel" => Ok(Rules::ByteLevel),
        "WordPiece" => Ok(Rules::WordPiece {
            prefix: part.get("prefix").map_or(Ok("##"), |_| part.text("prefix"))?.to_owned(),
            cleanup: part.flag_or("cleanup", true)?,
        }),
        "Metaspace" => {
            let default = |_: &Value| part.character("replacement");
            let never = part.get("prepend_scheme").is_some_and(|scheme| scheme == "never");
            Ok(Rules::Metaspace {
                mark: part.get("replacement").map_or(Ok('\u{2581}'), default)?,
                drop_first: !never && part.flag_or("add_prefix_space", true)?,
            })
        }
        _ => sequence(&parts),
    }
}

fn sequence(parts: &[Part<'_>]) -> Result<Rules> {
    let (mut replace, mut byte_fallback, mut strip, mut fused) = (Vec::new(), false, None, false);
    for part in parts {
        let from = part.value.pointer("/pattern/String").and_then(Value::as_str);
        match (part.kind(), from) {
            ("Replace", Some(from)) if !fused && !byte_fallback && !from.is_empty() => {
                replace.push((from.to_owned(), part.text("content")?.to_owned()));
            }
            ("ByteFallback", _) if !fused => byte_fallback = true,
            ("Fuse", _) => fused = true,
            ("Strip", _) if fused && strip.is_none() && part.number("stop")? == 0 => {
                strip = Some((part.character("content")?, part.number("start")?));
            }
            _ => return Err(part.error("is not supported here")),
        }
    }
    Ok(Rules::Pieces { replace, byte_fallback, strip })
}
