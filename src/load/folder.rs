//! A Hugging Face folder: config.json, safetensors (sharded or not), tokenizer and generation files.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::arch::{tensor_names, transposed};
use crate::error::{Error, Result, config_error, format_error};

use super::json::{self, Object};
use super::mmap::Bytes;
use super::names::gguf_name;
use super::tensor::Tensor;
use super::unread::Seen;
use super::{ReadOptions, Source, mxfp4, safetensors};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Parsed JSON takes some sixteen times its text; the largest real file here is a tenth of this.
const MAX_JSON: usize = 64 << 20;

/// Everything of a folder but the weights.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) dir: PathBuf,
    pub(super) config: Option<Map<String, Value>>,
    pub(super) generation: Option<Map<String, Value>>,
    pub(super) tokenizer: Option<Bytes>,
    pub(super) tokenizer_config: Option<Value>,
    /// The keys of the configuration that somebody has asked for.
    pub(super) seen: Seen,
}

/// tokenizer_config.json, with the chat template that newer folders have in a file of its own.
fn tokenizer_config(dir: &Path) -> Result<Option<Map<String, Value>>> {
    let config = read_json(&dir.join("tokenizer_config.json"))?;
    let path = dir.join("chat_template.jinja");
    match std::fs::read(&path) {
        Ok(bytes) if bytes.len() <= MAX_JSON => {
            let template = String::from_utf8(bytes);
            let template = template.map_err(|e| format_error(e.to_string()).at(&path))?;
            let mut config = config.unwrap_or_default();
            config.insert("chat_template".into(), template.into());
            Ok(Some(config))
        }
        Ok(_) => Err(format_error(format!("larger than {MAX_JSON} bytes")).at(&path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(config),
        Err(error) => Err(Error::io(&path, error)),
    }
}

/// The files themselves, those that there are.
pub(super) struct Parts<'a> {
    pub(super) config: Option<Cow<'a, [u8]>>,
    pub(super) generation: Option<Cow<'a, [u8]>>,
    pub(super) tokenizer: Option<Cow<'a, [u8]>>,
    pub(super) tokenizer_config: Option<Cow<'a, [u8]>>,
}

impl Folder {
    /// What [`parts`](Self::parts) gave, out of a packed file.
    pub(super) fn from_parts(parts: &Parts<'_>) -> Result<Self> {
        let json = |part: &Option<Cow<'_, [u8]>>, name: &str| {
            let parsed = part.as_ref().map(|part| json::parse(part)).transpose();
            parsed.map_err(|e| format_error(format!("{name} inside: {e}")))
        };
        Ok(Self {
            dir: PathBuf::new(),
            config: json(&parts.config, "config.json")?,
            generation: json(&parts.generation, "generation_config.json")?,
            tokenizer: parts.tokenizer.as_ref().map(|part| Bytes::Given(part.to_vec().into())),
            tokenizer_config: json(&parts.tokenizer_config, "tokenizer_config.json")?
                .map(Value::Object),
            seen: Seen::default(),
        })
    }

    /// The small files as a packed file keeps them.
    pub(super) fn parts(&self) -> Parts<'_> {
        let json = |map: &Map<String, Value>| {
            Cow::Owned(serde_json::to_vec(map).expect("a JSON object in memory can be written"))
        };
        Parts {
            config: self.config.as_ref().map(json),
            generation: self.generation.as_ref().map(json),
            tokenizer: self.tokenizer.as_deref().map(Cow::Borrowed),
            tokenizer_config: self.tokenizer_config.as_ref().and_then(Value::as_object).map(json),
        }
    }

    /// Reads the small files of `dir`.
    pub(super) fn open(dir: &Path, options: &ReadOptions) -> Result<Self> {
        let tokenizer = dir.join("tokenizer.json");
        let folder = Self {
            dir: dir.to_path_buf(),
            config: read_json(&dir.join("config.json"))?,
            generation: read_json(&dir.join("generation_config.json"))?,
            tokenizer: tokenizer
                .exists()
                .then(|| Bytes::open(&tokenizer, options.mmap))
                .transpose()?,
            tokenizer_config: tokenizer_config(dir)?.map(Value::Object),
            seen: Seen::default(),
        };
        if folder.config.is_none() && folder.tokenizer.is_none() {
            return Err(format_error(
                "not a model folder: it holds neither config.json nor tokenizer.json",
            )
            .at(dir));
        }
        Ok(folder)
    }

    /// The configuration with the path for error messages.
    pub(super) fn config(&self) -> Result<Object<'_>> {
        let map = self
            .config
            .as_ref()
            .ok_or_else(|| config_error("config.json is missing from the folder").at(&self.dir))?;
        Ok(text_config(map)?.noted(&self.seen))
    }

    pub(super) fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// The weights, in the file that was asked for or the ones the folder names.
    pub(super) fn weights(
        &self,
        file: Option<&Path>,
        options: &ReadOptions,
    ) -> Result<(Vec<Source>, Vec<Tensor>)> {
        let index_path = self.dir.join(INDEX);
        let index = read_json(&index_path)?.map(|map| weight_map(&map)).transpose();
        let index = index.map_err(|e| e.at(&index_path))?.unwrap_or_default();
        let paths = self.weight_files(file, &index);
        let mut sources = Vec::new();
        let mut tensors = Vec::new();
        for path in paths {
            let bytes = Bytes::open(&path, options.mmap)?;
            let found = safetensors::parse(&bytes, sources.len()).map_err(|e| e.at(&path))?;
            tensors.extend(found);
            sources.push(Source { path, bytes });
        }
        if !sources.is_empty() {
            check_index(&index, &sources, &tensors).map_err(|e| e.at(&index_path))?;
        }
        self.name(&mut tensors).map_err(|e| e.at(&self.dir))?;
        Ok((sources, tensors))
    }

    fn weight_files(&self, file: Option<&Path>, index: &Index) -> Vec<PathBuf> {
        let whole = self.dir.join(WEIGHTS);
        let named = file.and_then(Path::file_name).and_then(|name| name.to_str());
        match named {
            Some(name) if name != WEIGHTS && !index.files.iter().any(|shard| shard == name) => {
                file.map(Path::to_path_buf).into_iter().collect()
            }
            // As transformers does: the whole file goes before the shards.
            _ if whole.exists() => vec![whole],
            _ => index.files.iter().map(|shard| self.dir.join(shard)).collect(),
        }
    }

    /// GGUF names for the tensors of an architecture that runs; the others keep their own. What is in
    /// two parts is one tensor then.
    pub(super) fn name(&self, tensors: &mut Vec<Tensor>) -> Result<()> {
        self.rename(tensors);
        mxfp4::join(tensors)
    }

    fn rename(&self, tensors: &mut [Tensor]) {
        let Some(Ok(config)) = self.config.as_ref().map(text_config) else { return };
        let arch = config.str("model_type").ok().flatten();
        let Some(own) = arch.and_then(tensor_names) else { return };
        let transposed = arch.map_or(&[][..], transposed);
        for tensor in tensors {
            if let Some(name) = gguf_name(&tensor.name, own) {
                tensor.name = name;
            }
            let of_layer = tensor.name.splitn(3, '.').nth(2);
            let part = of_layer.and_then(|rest| rest.strip_suffix(".weight"));
            if part.is_some_and(|part| transposed.contains(&part)) && tensor.shape.len() == 2 {
                tensor.transposed = true;
                tensor.shape.reverse();
            }
        }
    }
}

/// The configuration of the language model: all of a config.json, or in that of a multimodal model
/// the object that it has for its text.
pub(super) fn text_config(map: &Map<String, Value>) -> Result<Object<'_>> {
    let whole = Object::new(map, "");
    let text = whole.object("text_config")?.filter(|text| text.contains_key("model_type"));
    Ok(text.map_or(whole, |map| Object::new(map, "text_config.")))
}

/// What the index says: which file holds which tensor.
#[derive(Debug, Default)]
struct Index {
    tensors: BTreeMap<String, String>,
    /// Without repetitions, in order.
    files: Vec<String>,
}

fn weight_map(map: &Map<String, Value>) -> Result<Index> {
    let object = Object::new(map, "");
    let entries = object.need("weight_map", object.object("weight_map")?)?;
    let mut tensors = BTreeMap::new();
    for (name, file) in entries {
        let file = file.as_str().filter(|file| is_plain_name(file)).ok_or_else(|| {
            format_error(format!(
                "weight_map: tensor \"{name}\" is not in a file of this folder (found {file})"
            ))
        })?;
        tensors.insert(name.clone(), file.to_owned());
    }
    let mut files: Vec<String> = tensors.values().cloned().collect();
    files.sort_unstable();
    files.dedup();
    Ok(Index { tensors, files })
}

/// Whether a name from the index stays inside the folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let plain = matches!(parts.next(), Some(Component::Normal(part)) if part == name);
    plain && parts.next().is_none() && !name.contains(['/', '\\', ':'])
}

fn check_index(index: &Index, sources: &[Source], tensors: &[Tensor]) -> Result<()> {
    let stored: BTreeMap<&str, usize> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.file)).collect();
    for (name, file) in &index.tensors {
        let Some(shard) = sources.iter().position(|source| source.path.ends_with(file)) else {
            continue; // the index is of other files than the ones opened
        };
        if stored.get(name.as_str()) != Some(&shard) {
            return Err(format_error(format!(
                "weight_map: tensor \"{name}\" is not in {file}, where it should be"
            )));
        }
    }
    Ok(())
}

/// The object in a JSON file, `None` when there is no such file.
fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
        Ok(info) if info.len() > MAX_JSON as u64 => {
            return Err(format_error(format!(
                "{} bytes of JSON, more than {MAX_JSON}",
                info.len()
            ))
            .at(path));
        }
        Ok(_) => {}
    }
    let bytes = Bytes::open(path, false)?;
    json::parse(&bytes).map(Some).map_err(|e| e.at(path))
}

#[cfg(test)]
mod tests {
    use super::is_plain_name;

    #[test]
    fn shard_names_stay_in_the_folder() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for bad in ["", ".", "..", "../x", "/x", "a/b", "a\\b", "C:x", "x/"] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
