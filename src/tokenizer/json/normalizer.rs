//! The normalizer of a tokenizer.json.

use serde_json::Value;

use super::Part;
use crate::error::Result;
use crate::tokenizer::charsmap::Charsmap;
use crate::tokenizer::normalize::{Bert, Normalizer, Step};

pub(super) fn read(value: Option<&Value>) -> Result<Normalizer> {
    let parts = Part::all("normalizer", value, "normalizers")?;
    parts.into_iter().map(step).collect::<Result<_>>().map(Normalizer)
}

fn step(part: Part<'_>) -> Result<Step> {
    Ok(match part.kind() {
        "BertNormalizer" => {
            let lowercase = part.flag("lowercase")?;
            Step::Bert(Bert {
                clean_text: part.flag("clean_text")?,
                handle_chinese_chars: part.flag("handle_chinese_chars")?,
                strip_accents: part.flag_or("strip_accents", lowercase)?,
                lowercase,
            })
        }
        "Strip" => Step::Strip { left: part.flag("strip_left")?, right: part.flag("strip_right")? },
        "StripAccents" => Step::StripAccents,
        "NFC" => Step::Nfc,
        "NFD" => Step::Nfd,
        "NFKC" => Step::Nfkc,
        "NFKD" => Step::Nfkd,
        "Lowercase" => Step::Lowercase,
        "Nmt" => Step::Nmt,
        "Precompiled" => {
            let map = base64::decode(part.text("precompiled_charsmap")?);
            let map = map.map_err(|e| part.error(format_args!("is no base64: {e}")))?;
            Step::Charsmap(Charsmap::new(&map).map_err(|e| part.error(e))?)
        }
        "Replace" => {
            Step::Replace { pattern: part.pattern()?, content: part.text("content")?.to_owned() }
        }
        "Prepend" => Step::Prepend(part.text("prepend")?.to_owned()),
        "ByteLevel" => Step::Bytes,
        _ => return Err(part.unsupported()),
    })
}
