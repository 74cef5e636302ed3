//! Opening real model files, and the configuration read from each kind.

mod common;

use std::path::Path;

use common::gguf::{self, Gguf, tiny};
use common::models::random;
use common::safetensors::{tiny_config, tiny_tensors, write_tiny};
use goldcrest::load::{Checkpoint, FileKind, GgmlType, ReadOptions, TokenizerSource, fuzzing};
use goldcrest::{Config, ErrorKind, RopeScaling, RopeStyle};
use serde_json::{Value, json};

fn open(path: impl AsRef<Path>) -> Checkpoint {
    Checkpoint::open(path, &ReadOptions::default()).unwrap()
}

/// Opens and checks a file that must run, but for the types of its tensors.
fn open_checked(path: impl AsRef<Path>) -> (Checkpoint, Config) {
    let checkpoint = open(path);
    checkpoint.check().unwrap();
    let config = checkpoint.config().unwrap();
    (checkpoint, config)
}

fn gguf_config(file: &Gguf) -> goldcrest::Result<Config> {
    fuzzing::gguf(&file.build()).unwrap().config()
}

fn json_config(
    edit: impl FnOnce(&mut serde_json::Map<String, Value>),
) -> goldcrest::Result<Config> {
    let mut config = tiny_config();
    edit(config.as_object_mut().unwrap());
    let weights = common::safetensors::build(&tiny_tensors());
    fuzzing::folder(config.to_string().as_bytes(), &weights).unwrap().config()
}

#[test]
fn golden_folders_and_files_agree() {
    let Some(assets) = common::assets() else { return };
    for name in [
        "llama",
        "llama_tied_rope3",
        "mistral",
        "mistral_full",
        "qwen2",
        "qwen3",
        "llama_256",
        "qwen2_256",
    ] {
        let dir = assets.join("golden").join(name);
        let (folder, config) = open_checked(&dir);
        assert_eq!(folder.kind(), FileKind::HuggingFace);
        assert_eq!(config.rope().style, RopeStyle::Halves);
        assert!(name.starts_with(config.arch()), "{name}");

        // What transformers 5 writes for the same model.
        let v5 = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join("config.v5.json"), v5.path().join("config.json")).unwrap();
        std::fs::copy(dir.join("model.safetensors"), v5.path().join("model.safetensors")).unwrap();
        assert_eq!(open_checked(v5.path()).1, config, "{name}");

        let mut path = dir.join(format!("{name}-F32.gguf"));
        if name.ends_with("_256") {
            path = dir.join("gguf").join(path.file_name().unwrap());
        }
        // GGUF does not say mistral's window as llama.cpp reads it.
        assert_eq!(path.exists(), name != "mistral", "{}", path.display());
        if name != "mistral" {
            compare_with_gguf(&folder, &config, &path);
        }
    }
}

fn compare_with_gguf(folder: &Checkpoint, config: &Config, path: &Path) {
    let (file, other) = open_checked(path);
    let is_llama = other.arch() == "llama";
    let (ours, theirs) = (config.rope(), other.rope());
    assert_eq!(theirs.style, if is_llama { RopeStyle::Pairs } else { RopeStyle::Halves });
    assert_eq!((ours.theta, ours.dim), (theirs.theta, theirs.dim));
    match &theirs.scaling {
        RopeScaling::Factors(factors) => assert_eq!(factors.len(), ours.dim / 2),
        scaling => assert_eq!(scaling, &ours.scaling),
    }
    let numbers = |config: &Config| {
        let widths = (config.vocab_size(), config.hidden(), config.ffn(), config.head_dim());
        let heads = (config.n_layers(), config.n_heads(), config.n_kv_heads());
        let rest = (config.context_length(), config.norm_eps().to_bits(), config.experts());
        (widths, heads, rest, config.windows().to_vec())
    };
    assert_eq!(numbers(&other), numbers(config), "{}", path.display());
    // A mistral's file calls itself llama.
    assert!(other.arch() == config.arch() || is_llama && config.arch() == "mistral");
    for tensor in file.tensors().iter().filter(|t| t.name != "rope_freqs.weight") {
        let same = folder.tensor(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
        assert_eq!(same.shape, tensor.shape, "{}", tensor.name);
        let permuted =
            is_llama && (tensor.name.contains("attn_q.") || tensor.name.contains("attn_k."));
        assert!(permuted || folder.data(same) == file.data(tensor), "{}", tensor.name);
    }
}

#[test]
fn every_asset_opens_or_says_why() {
    let Some(assets) = common::assets() else { return };
    let mut seen = 0;
    let mut folders = vec![assets.join("golden"), assets.join("models"), assets.join("vocab")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_model = path.extension().is_some_and(|ext| ext == "gguf")
                || path.file_name().is_some_and(|name| name == "config.json");
            if !is_model {
                continue;
            }
            seen += 1;
            match Checkpoint::open(&path, &ReadOptions::default()) {
                Ok(checkpoint) => {
                    fuzzing::exercise(&checkpoint);
                    assert_reads_the_same(&checkpoint, &path);
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Unsupported, "{e}");
                    let refused = ["GGUF version 1", "type F8_E4M3"];
                    assert!(refused.iter().any(|what| e.to_string().contains(what)), "{e}");
                }
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

fn assert_reads_the_same(mapped: &Checkpoint, path: &Path) {
    let read = Checkpoint::open(path, &ReadOptions { mmap: false }).unwrap();
    assert!(!read.is_mapped());
    for (a, b) in mapped.tensors().iter().zip(read.tensors()) {
        assert!(mapped.data(a) == read.data(b), "{}", a.name);
    }
}

#[test]
fn stories_in_every_type() {
    let Some(assets) = common::assets() else { return };
    let derived = assets.join("models/stories260K/derived");
    for (name, ty) in [
        ("F32", GgmlType::F32),
        ("F16", GgmlType::F16),
        ("Q8_0", GgmlType::Q8_0),
        ("Q4_0", GgmlType::Q4_0),
        ("Q4_1", GgmlType::Q4_1),
        ("Q5_0", GgmlType::Q5_0),
        ("Q5_1", GgmlType::Q5_1),
    ] {
        let (file, config) = open_checked(derived.join(format!("stories260K-{name}.gguf")));
        assert_eq!((config.hidden(), config.ffn(), config.vocab_size()), (64, 172, 512));
        assert_eq!((config.n_heads(), config.n_kv_heads(), config.head_dim()), (8, 4, 8));
        let query = file.need("blk.0.attn_q.weight").unwrap();
        assert_eq!(query.ty, ty);
        assert_eq!(file.data(query).len(), ty.bytes_for(64 * 64).unwrap());
        assert!(matches!(file.tokenizer_source(), TokenizerSource::Metadata(_)));
        assert_eq!(file.vocabulary(), Some(512));
    }
    let (folder, _) = open_checked(derived.join("hf-qwen2-transplant"));
    assert!(folder.tensor("output.weight").is_none());
    assert!(matches!(folder.tokenizer_source(), TokenizerSource::Json { .. }));
}

#[test]
fn types_without_kernels_are_listed_and_refused_by_name() {
    let mut file = random(GgmlType::Q4_K);
    let tensor = file.tensor_mut("blk.1.attn_q.weight");
    (tensor.ty, tensor.data) = (GgmlType::Q8_1.id(), vec![0; 256 * 8 * 36]);
    let file = fuzzing::gguf(&file.build()).unwrap();
    let summary = file.describe();
    assert!(!summary.runnable);
    assert!(summary.problem.as_deref().unwrap().contains("Q8_1"), "{:?}", summary.problem);
    assert!(summary.to_string().contains("not run by this version"));
    assert!(summary.types.iter().any(|count| count.ty == GgmlType::Q8_1 && !count.runnable));
    let error = file.check().unwrap_err().to_string();
    assert!(error.contains("blk.1.attn_q.weight") && error.contains("Q8_1"), "{error}");
}

#[test]
fn a_file_inside_a_folder_opens_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    for name in ["", "config.json", "model.safetensors"] {
        let (folder, config) = open_checked(dir.path().join(name));
        assert_eq!(config.n_layers(), 1);
        assert_eq!(folder.tensors().len(), 12);
        assert_eq!(folder.generation_defaults().unwrap().eos, [2, 3]);
        assert_eq!(folder.generation_defaults().unwrap().bos, Some(1));
    }
    // Told from the content, not from the name.
    let odd = dir.path().join("weights.bin");
    std::fs::rename(dir.path().join("model.safetensors"), &odd).unwrap();
    assert_eq!(open_checked(&odd).0.tensors().len(), 12);
    std::fs::write(&odd, tiny("llama").build()).unwrap();
    assert_eq!(open_checked(&odd).0.kind(), FileKind::Gguf { version: 3 });
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": 7}"#).unwrap();
    assert_eq!(open(dir.path()).generation_defaults().unwrap().eos, [7]);
}

#[test]
fn shards() {
    let dir = tempfile::tempdir().unwrap();
    write_tiny(dir.path());
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let tensors = tiny_tensors();
    let mut weight_map = serde_json::Map::new();
    for (number, half) in tensors.chunks(6).enumerate() {
        let shard = format!("model-{:05}-of-00002.safetensors", number + 1);
        std::fs::write(dir.path().join(&shard), common::safetensors::build(half)).unwrap();
        weight_map.extend(half.iter().map(|(name, _)| (name.to_string(), json!(shard))));
    }
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": weight_map}).to_string()).unwrap();
    assert_eq!(open_checked(dir.path()).0.tensors().len(), 12);
    // Any shard leads to the folder.
    assert_eq!(
        open_checked(dir.path().join("model-00002-of-00002.safetensors")).0.tensors().len(),
        12
    );
}

/// Writes a model in three parts, the keys in the first, and returns their paths.
fn write_split(dir: &Path) -> Vec<std::path::PathBuf> {
    let whole = tiny("llama");
    let total = whole.tensors.len() as u32;
    let mut paths = Vec::new();
    for (number, tensors) in whole.tensors.chunks(4).enumerate() {
        let mut part = if number == 0 { whole.clone() } else { Gguf::default() };
        part.tensors = tensors.to_vec();
        part.u32("split.no", number as u32).u32("split.count", 3).u32("split.tensors.count", total);
        let path = dir.join(format!("m-{:05}-of-00003.gguf", number + 1));
        std::fs::write(&path, part.build()).unwrap();
        paths.push(path);
    }
    paths
}

#[test]
fn split_files() {
    let dir = tempfile::tempdir().unwrap();
    let paths = write_split(dir.path());
    let whole = fuzzing::gguf(&tiny("llama").build()).unwrap();
    for path in &paths {
        let (file, _) = open_checked(path);
        assert_eq!(file.tensors().len(), whole.tensors().len());
        for tensor in whole.tensors() {
            assert!(file.data(file.tensor(&tensor.name).unwrap()) == whole.data(tensor));
        }
    }
    std::fs::copy(&paths[1], &paths[2]).unwrap();
    let error = Checkpoint::open(&paths[0], &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("m-00003-of-00003.gguf") && error.contains("not part 3"), "{error}");
    std::fs::remove_file(&paths[1]).unwrap();
    let error = Checkpoint::open(&paths[0], &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00003.gguf"), "{error}");
    let renamed = dir.path().join("renamed.gguf");
    std::fs::copy(&paths[0], &renamed).unwrap();
    let error = Checkpoint::open(&renamed, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("-00001-of-00003.gguf"), "{error}");
}

#[test]
fn files_in_memory() {
    let bytes = tiny("llama").build();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, &bytes).unwrap();
    let (file, memory) = (open(&path), Checkpoint::from_bytes("here", bytes.clone()).unwrap());
    assert_eq!(memory.path(), Path::new("here"));
    assert_eq!(file.tensors().len(), memory.tensors().len());
    for tensor in file.tensors() {
        assert!(file.data(tensor) == memory.data(memory.tensor(&tensor.name).unwrap()));
    }
    let logits = |model: goldcrest::Model| {
        let mut session = model.session().unwrap();
        session.push(&[1, 2, 3]).unwrap();
        session.logits().unwrap().to_vec()
    };
    let loaded = goldcrest::Model::from_bytes("here", bytes).load().unwrap();
    assert_eq!(logits(loaded), logits(goldcrest::Model::open(&path).unwrap()));

    let split = std::fs::read(&write_split(dir.path())[0]).unwrap();
    let weights = common::safetensors::build(&tiny_tensors());
    for (bytes, kind, part) in [
        (split, ErrorKind::Unsupported, "split"),
        (weights, ErrorKind::Unsupported, "folder"),
        (Vec::new(), ErrorKind::Format, "empty"),
    ] {
        let error = Checkpoint::from_bytes("here", bytes).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(part) && text.contains("here"), "{text}");
    }
}

#[test]
fn version_2_and_odd_alignments() {
    for (version, alignment) in [(2, 32), (3, 8), (3, 64), (3, 4096)] {
        let mut file = tiny("llama");
        file.version = version;
        file.alignment = alignment;
        file.u32("general.alignment", alignment as u32);
        let checkpoint = fuzzing::gguf(&file.build()).unwrap();
        checkpoint.check().unwrap();
        let q = checkpoint.need("blk.0.attn_q.weight").unwrap();
        assert_eq!(checkpoint.data(q)[4..8], 0.125f32.to_le_bytes());
    }
}

#[test]
fn gguf_rope_scaling() {
    let mut file = tiny("llama");
    assert_eq!(gguf_config(&file).unwrap().rope().scaling, RopeScaling::None);
    file.f32("llama.rope.scaling.factor", 4.0);
    assert_eq!(gguf_config(&file).unwrap().rope().scaling, RopeScaling::Linear { factor: 4.0 });
    file.str("llama.rope.scaling.type", "none");
    assert_eq!(gguf_config(&file).unwrap().rope().scaling, RopeScaling::None);
    file.str("llama.rope.scaling.type", "yarn")
        .u32("llama.rope.scaling.original_context_length", 16);
    let RopeScaling::Yarn {
        factor,
        original_context,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate,
    } = gguf_config(&file).unwrap().rope().scaling
    else {
        panic!("not yarn")
    };
    assert_eq!((factor, original_context, beta_fast, beta_slow), (4.0, 16, 32.0, 1.0));
    assert!((attention_factor - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6 && truncate);
    file.str("llama.rope.scaling.type", "longrope");
    let error = gguf_config(&file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("longrope"), "{error}");
}

#[test]
fn json_rope_scaling() {
    let with = |scaling: Value| {
        json_config(|c| drop(c.insert("rope_scaling".into(), scaling)))
            .map(|c| c.rope().scaling.clone())
    };
    assert_eq!(with(Value::Null).unwrap(), RopeScaling::None);
    assert_eq!(with(json!({"rope_type": "default"})).unwrap(), RopeScaling::None);
    let linear = with(json!({"type": "linear", "factor": 2})).unwrap();
    assert_eq!(linear, RopeScaling::Linear { factor: 2.0 });
    let yarn = |extra: Value| {
        let mut scaling = json!({"rope_type": "yarn", "factor": 4.0});
        scaling.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        match with(scaling).unwrap() {
            RopeScaling::Yarn { original_context, attention_factor, truncate, .. } => {
                (original_context, attention_factor, truncate)
            }
            other => panic!("{other:?}"),
        }
    };
    let plain = 0.1 * 4f32.ln() + 1.0;
    assert_eq!(yarn(json!({})), (64, plain, true));
    assert_eq!(yarn(json!({"attention_factor": 0.5, "truncate": false})), (64, 0.5, false));
    assert_eq!(yarn(json!({"original_max_position_embeddings": 16})), (16, plain, true));
    assert_eq!(yarn(json!({"mscale": 1.0, "mscale_all_dim": 1.0})).1, 1.0);
    assert_eq!(yarn(json!({"mscale": 1.0})).1, plain);
    for (bad, named) in [
        (json!({"rope_type": "dynamic", "factor": 2}), "dynamic"),
        (json!({"rope_type": "llama3", "factor": 2}), "rope_scaling.low_freq_factor"),
        (json!({"rope_type": "linear", "factor": "x"}), "rope_scaling.factor"),
        (json!({"rope_type": "linear", "factor": 0}), "rope scaling"),
        (json!([1]), "rope_scaling"),
    ] {
        let error = with(bad).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

#[test]
fn sliding_windows() {
    let windows = |edits: Value| {
        json_config(|config| {
            config.insert("num_hidden_layers".into(), json!(3));
            config.extend(edits.as_object().unwrap().clone());
        })
        .map(|config| config.windows().to_vec())
    };
    let (on, off) = (Some(8), None);
    for (edits, expected) in [
        (json!({"sliding_window": 8}), [off; 3]), // llama has no windows
        (json!({"model_type": "mistral", "sliding_window": 8}), [on; 3]),
        (json!({"model_type": "mistral", "sliding_window": null}), [off; 3]),
        (json!({"model_type": "mistral"}), [Some(4096); 3]),
        (json!({"model_type": "qwen2", "sliding_window": 8}), [off; 3]),
        (
            json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true, "max_window_layers": 1}),
            [off, on, on],
        ),
        (json!({"model_type": "qwen2", "sliding_window": 8, "use_sliding_window": true}), [off; 3]),
        (
            json!({"model_type": "qwen3", "sliding_window": 8, "use_sliding_window": true,
                   "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
            [on, off, on],
        ),
    ] {
        assert_eq!(windows(edits.clone()).unwrap(), expected, "{edits}");
    }
    let error =
        windows(json!({"model_type": "qwen2", "layer_types": ["chunked_attention", "", ""]}));
    assert!(error.unwrap_err().to_string().contains("chunked_attention"));
    assert!(windows(json!({"model_type": "mistral", "sliding_window": 0})).is_err());

    let mut file = tiny("llama");
    file.u32("llama.attention.sliding_window", 8);
    assert_eq!(gguf_config(&file).unwrap().windows(), [on]);
    // One of any size is no longer than the context.
    file.raw("llama.attention.sliding_window", 10, u64::MAX.to_le_bytes());
    let checkpoint = fuzzing::gguf(&file.build()).unwrap();
    assert!(checkpoint.describe().memory.is_some());
    fuzzing::run(checkpoint).unwrap();
}

#[test]
fn variants_that_compute_something_else_are_refused() {
    for (key, value) in [
        ("model_type", json!("mamba")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("quantization", json!({"group_size": 64, "bits": 4})),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("partial_rotary_factor", json!(0.5)),
    ] {
        let error = json_config(|config| drop(config.insert(key.into(), value))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let named = if key == "model_type" { "mamba" } else { key };
        assert!(error.to_string().contains(named), "{error}");
    }
    let mut file = tiny("qwen2");
    file.u32("qwen2.expert_count", 8);
    assert!(gguf_config(&file).unwrap_err().to_string().contains("expert_count"));
}

#[test]
fn numbers_of_a_layer_that_do_not_fit_are_named() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let weights = common::safetensors::build(&tiny_tensors());
    for (case, key, value) in [
        ("falcon_h1", "ssm_multipliers", json!([1.0, 1.0])),
        ("falcon_h1", "mlp_multipliers", json!([1.0, -1.0])),
        ("falcon_h1", "key_multiplier", json!(0.0)),
        ("falcon_h1", "mamba_d_ssm", json!(40)),
        ("falcon_h1", "projectors_bias", json!(true)),
        ("falcon_h1", "mamba_use_mlp", json!(false)),
        ("gemma3n_text", "altup_active_idx", json!(4)),
        ("gemma3n_text", "altup_num_inputs", json!(9)),
        ("gemma3n_text", "activation_sparsity_pattern", json!([0.5, 0.0, 0.5])),
        ("gemma3n_text", "activation_sparsity_pattern", json!(1.0)),
        ("gemma3n_text", "intermediate_size", json!([24, 40, 24])),
        ("gemma3n_text", "num_kv_shared_layers", json!(4)),
    ] {
        let mut config = common::reference::json(fixtures.join(case).join("config.json"));
        config[key] = value;
        let folder = fuzzing::folder(config.to_string().as_bytes(), &weights).unwrap();
        let error = folder.config().unwrap_err().to_string();
        assert!(error.contains(key), "{case} {key}: {error}");
    }
}

#[test]
fn defaults_and_equal_arrays() {
    let mut file = tiny("llama");
    file.remove("llama.attention.head_count_kv");
    assert_eq!(gguf_config(&file).unwrap().n_kv_heads(), 4);
    let mut heads = gguf::U32.to_le_bytes().to_vec();
    heads.extend(1u64.to_le_bytes());
    heads.extend(2u32.to_le_bytes());
    file.raw("llama.attention.head_count_kv", gguf::ARRAY, heads);
    let config = gguf_config(&file).unwrap();
    assert_eq!((config.n_kv_heads(), config.rope().theta, config.rope().dim), (2, 10_000.0, 8));
    let qwen3 = json_config(|config| drop(config.insert("model_type".into(), json!("qwen3"))));
    assert_eq!(qwen3.unwrap().head_dim(), 128);
}

/// A folder of a llama, edited, and the logits after a few tokens.
fn logits_of(
    tensors: &[(&str, Vec<usize>)],
    edit: impl FnOnce(&mut Value, &mut Vec<u8>),
) -> goldcrest::Result<Vec<f32>> {
    let (mut config, mut weights) = (tiny_config(), common::safetensors::build(tensors));
    edit(&mut config, &mut weights);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("model.safetensors"), weights).unwrap();
    let model = goldcrest::Model::loader(dir.path()).threads(1).load()?;
    model.session().unwrap().logits_all(&[1, 5, 7])
}

#[test]
fn a_stored_head_is_used_unless_it_is_the_embedding() {
    let tensors = tiny_tensors();
    let without: Vec<_> =
        tensors.iter().filter(|(name, _)| *name != "lm_head.weight").cloned().collect();
    let tie = |config: &mut Value| config["tie_word_embeddings"] = json!(true);
    let tied = logits_of(&without, |config, _| tie(config)).unwrap();
    // The writer gives both the same bytes; the key does not matter then.
    assert_eq!(logits_of(&tensors, |config, _| tie(config)).unwrap(), tied);
    assert_eq!(logits_of(&tensors, |_, _| ()).unwrap(), tied);
    // Another head is the head, whatever the key says.
    let change = |weights: &mut Vec<u8>| {
        let head = 8 + u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
        // The norm's first weight is 0.
        let at = head + 4 * (24 * 32 + 32 + 1);
        weights[at..at + 4].copy_from_slice(&64f32.to_le_bytes());
    };
    let other = logits_of(&tensors, |_, weights| change(weights)).unwrap();
    assert_ne!(other, tied);
    let both = logits_of(&tensors, |config, weights| {
        tie(config);
        change(weights);
    });
    assert_eq!(both.unwrap(), other);
    // Neither a head nor leave to do without.
    let error = logits_of(&without, |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tensor);
    assert!(error.to_string().contains("output.weight"), "{error}");
}

#[test]
fn a_tensor_that_no_pass_reads_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    for (name, shape) in
        [("blk.0.attn_q.bias", &[32u64][..]), ("blk.0.ffn_gate_inp.weight", &[4, 32]), ("x", &[1])]
    {
        std::fs::write(&path, tiny("llama").f32_tensor(name, shape).build()).unwrap();
        let errors = [
            goldcrest::Model::open(&path).unwrap_err(),
            goldcrest::Model::loader(&path).pack(dir.path().join("packed")).unwrap_err(),
            open(&path).check().unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(&format!("\"{name}\"")), "{error}");
        }
    }
    // What the configuration says already may be there.
    let mut tensors = tiny_tensors();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq", vec![4]));
    logits_of(&tensors, |_, _| ()).unwrap();
}

#[test]
fn summaries() {
    let file = fuzzing::gguf(&tiny("llama").build()).unwrap();
    let summary = file.describe();
    assert!(summary.runnable, "{:?}", summary.problem);
    let memory = summary.memory.unwrap();
    assert_eq!((memory.context, memory.kv_cache), (64, 2 * 2 * 64 * (8 + 16))); // rows of values in whole vectors
    assert_eq!(memory.total, memory.kv_cache + summary.tensor_bytes);
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(json["format"], "gguf");
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 24);
    assert_eq!(
        json["tensors"][0],
        json!({
            "name": "token_embd.weight", "type": "F32", "shape": [24, 32], "bytes": 3072, "runnable": true
        })
    );
    let text = summary.to_string();
    assert!(text.contains("... (24 in all)") && text.contains("runs          yes"), "{text}");
}
