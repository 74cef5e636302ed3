//! Damaged and hostile files: each gives one error that names what is wrong, and takes no more memory than
//! the file justifies.
#![allow(unsafe_code)] // the allocator below, which counts and passes on

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::gguf::{self, Gguf, tiny};
use common::safetensors::{self, tiny_config, tiny_tensors, with_header, write_tiny};
use goldcrest::load::{Checkpoint, ReadOptions, fuzzing};
use goldcrest::{Error, ErrorKind};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Adds up what each thread allocates.
struct Counting;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a thread-local without a
// destructor or a lazy start, so touching it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get().saturating_add(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Opens, configures and checks a GGUF file, as a program that is about to run it would.
fn load(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let checkpoint = fuzzing::gguf(bytes)?;
    checkpoint.check()?;
    Ok(checkpoint)
}

/// Loads a file that must fail, and checks what it costs.
#[track_caller]
fn fails(bytes: &[u8], kind: ErrorKind, named: &[&str]) {
    let before = ALLOCATED.get();
    let result = load(bytes);
    let allocated = ALLOCATED.get() - before;
    check_error(&result.expect_err("must not load"), kind, named);
    assert!(allocated <= 16 * bytes.len() + 65_536, "{allocated} bytes for {}", bytes.len());
    // Loading a model says the same.
    let loaded = fuzzing::gguf(bytes).and_then(fuzzing::run);
    check_error(&loaded.expect_err("must not load"), kind, named);
}

#[track_caller]
fn check_error(error: &Error, kind: ErrorKind, named: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in named {
        assert!(text.contains(part), "no \"{part}\" in: {text}");
    }
    assert!(text.len() < 500 && !text.contains('\n'), "{text}");
}

fn broken(edit: impl FnOnce(&mut Gguf)) -> Vec<u8> {
    let mut file = tiny("llama");
    edit(&mut file);
    file.build()
}

#[test]
fn headers() {
    use ErrorKind::{Format, Unsupported};
    fails(b"", Format, &["header"]);
    fails(b"GGUF", Format, &["header", "truncated"]);
    fails(&broken(|f| f.magic = *b"GGML"), Format, &["magic"]);
    fails(&broken(|f| f.version = 1), Unsupported, &["version 1"]);
    fails(&broken(|f| f.version = 4), Unsupported, &["version 4"]);
    fails(&broken(|f| f.version = 3u32.swap_bytes()), Unsupported, &["big-endian", "version 3"]);
    for count in [1 << 20, 1 << 40, u64::MAX] {
        fails(&broken(|f| f.n_keys = Some(count)), Format, &["keys", &count.to_string()]);
        fails(&broken(|f| f.n_tensors = Some(count)), Format, &["tensors", &count.to_string()]);
    }
    fails(&broken(|f| f.n_tensors = Some(12)), Format, &["0 dimensions"]);
}

#[test]
fn every_truncation_fails() {
    let whole = tiny("llama").build();
    load(&whole).unwrap();
    for len in (0..2000).chain((2000..whole.len()).step_by(97)) {
        fails(&whole[..len], ErrorKind::Format, &["truncated"]);
    }
}

#[test]
fn keys() {
    use ErrorKind::{Config, Format};
    let array = |ty: u32, count: u64, rest: &[u8]| {
        [&ty.to_le_bytes()[..], &count.to_le_bytes(), rest].concat()
    };
    for count in [1 << 16, 1 << 33, u64::MAX] {
        for ty in [0, 4, 7, 8, 9, 12] {
            let value = array(ty, count, &[0; 64]);
            fails(
                &broken(|f| {
                    f.raw("x.huge", gguf::ARRAY, value);
                }),
                Format,
                &["x.huge"],
            );
        }
        let text = count.to_le_bytes();
        fails(
            &broken(|f| {
                f.raw("x.long", gguf::STRING, text);
            }),
            Format,
            &["x.long"],
        );
    }
    let nested = (0..1000).flat_map(|_| array(9, 1, &[])).collect::<Vec<_>>();
    fails(
        &broken(|f| {
            f.raw("x.deep", gguf::ARRAY, nested);
        }),
        Format,
        &["x.deep", "nested"],
    );
    fails(
        &broken(|f| {
            f.raw("x.type", 13, [0; 8]);
        }),
        Format,
        &["x.type", "13"],
    );
    fails(
        &broken(|f| {
            f.raw("x.type", gguf::ARRAY, array(99, 0, &[]));
        }),
        Format,
        &["x.type", "99"],
    );
    fails(
        &broken(|f| {
            f.raw("x.bool", gguf::BOOL, [2]);
        }),
        Format,
        &["x.bool"],
    );
    let bytes = [&2u64.to_le_bytes()[..], b"\xff\xfe"].concat();
    fails(
        &broken(|f| {
            f.raw("x.text", gguf::STRING, bytes.clone());
        }),
        Format,
        &["x.text", "UTF-8"],
    );
    let tokens = array(8, 1, &bytes);
    fails(
        &broken(|f| {
            f.raw("tokenizer.ggml.tokens", gguf::ARRAY, tokens);
        }),
        Format,
        &["tokenizer.ggml.tokens", "UTF-8"],
    );
    fails(
        &broken(|f| f.keys.insert(0, (b"\xff".to_vec(), gguf::BOOL, vec![1]))),
        Format,
        &["key number 0", "UTF-8"],
    );
    fails(
        &broken(|f| f.keys.push((b"llama.block_count".to_vec(), gguf::BOOL, vec![1]))),
        Format,
        &["llama.block_count", "twice"],
    );
    for alignment in [0, 1, 4, 24, 33, u32::MAX] {
        fails(
            &broken(|f| {
                f.u32("general.alignment", alignment);
            }),
            Format,
            &["general.alignment", &alignment.to_string()],
        );
    }
    fails(
        &broken(|f| {
            f.str("general.alignment", "32");
        }),
        Config,
        &["general.alignment"],
    );
}

#[test]
fn tensors() {
    use ErrorKind::{Format, Tensor, Unsupported};
    let name = "blk.0.attn_q.weight";
    let edit = |edit: &dyn Fn(&mut gguf::Tensor)| broken(|f| edit(f.tensor_mut(name)));
    for offset in [1 << 20, 1 << 62, u64::MAX / 32 * 32] {
        fails(&edit(&|t| t.offset = Some(offset)), Format, &[name]);
    }
    fails(&edit(&|t| t.offset = Some(4)), Format, &[name, "multiple of 32"]);
    fails(&edit(&|t| t.offset = Some(0)), Format, &["token_embd.weight", name, "overlap"]);
    for shape in [&[][..], &[1, 1, 1, 1, 1], &[0, 32], &[32, 0], &[1 << 40, 1 << 40], &[u64::MAX]] {
        fails(&edit(&|t| t.shape = shape.to_vec()), Format, &[name]);
    }
    fails(&edit(&|t| t.shape = vec![1 << 50, 32]), Format, &[name, "end of the file"]);
    fails(&edit(&|t| t.ty = 1000), Unsupported, &[name, "1000"]);
    fails(&edit(&|t| t.ty = 31), Unsupported, &[name, "Q4_0_4_4"]);
    fails(&edit(&|t| t.ty = 12), Format, &[name, "Q4_K", "256"]);
    fails(&edit(&|t| t.ty = 26), Unsupported, &[name, "I32"]);
    fails(&edit(&|t| t.shape = vec![16, 32]), Tensor, &[name, "[16, 32]", "[32, 32]"]);
    fails(&edit(&|t| t.name = "blk.0.attn_k.weight".into()), Format, &["attn_k", "twice"]);
    fails(&edit(&|t| t.name = "other".into()), Tensor, &[name, "missing"]);
    let extra = broken(|f| {
        f.f32_tensor("blk.0.attn_q.bias", &[32]);
    });
    fails(&extra, Unsupported, &["blk.0.attn_q.bias"]);
    fails(&broken(|f| f.tensors.clear()), Tensor, &["no tensors"]);
}

#[test]
fn configurations() {
    use ErrorKind::{Config, Tensor, Unsupported};
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        fails(
            &broken(|f| {
                f.remove(key);
            }),
            Config,
            &[key, "missing"],
        );
        fails(
            &broken(|f| {
                f.raw(key, gguf::BOOL, [1]);
            }),
            Config,
            &[key],
        );
    }
    for key in ["block_count", "embedding_length", "feed_forward_length", "attention.head_count_kv"]
    {
        let key = format!("llama.{key}");
        fails(
            &broken(|f| {
                f.u32(&key, 0);
            }),
            Config,
            &[&key],
        );
        fails(
            &broken(|f| {
                f.u32(&key, u32::MAX);
            }),
            Config,
            &[&key],
        );
    }
    fails(
        &broken(|f| {
            f.u32("llama.block_count", 4000);
        }),
        Tensor,
        &["blk.1.", "missing"],
    );
    fails(
        &broken(|f| {
            f.u32("llama.attention.head_count_kv", 3);
        }),
        Config,
        &["4 query", "3 key"],
    );
    fails(
        &broken(|f| {
            f.u32("llama.attention.head_count", 32);
        }),
        Config,
        &["even"],
    );
    fails(
        &broken(|f| {
            f.u32("llama.attention.value_length", 4);
        }),
        Unsupported,
        &["values of 4"],
    );
    fails(
        &broken(|f| {
            f.u32("llama.rope.dimension_count", 10);
        }),
        Config,
        &["rope", "10"],
    );
    fails(
        &broken(|f| {
            f.f32("llama.rope.freq_base", f32::NAN);
        }),
        Config,
        &["NaN"],
    );
    let eps = "llama.attention.layer_norm_rms_epsilon";
    fails(
        &broken(|f| {
            f.f32(eps, f32::INFINITY);
        }),
        Config,
        &["epsilon"],
    );
    fails(
        &broken(|f| {
            f.str("general.architecture", "mamba");
        }),
        Unsupported,
        &["mamba", "qwen2"],
    );
    for (size, relation) in [(23, "smaller"), (25, "larger")] {
        let expected = &["vocabulary", relation, "24 rows"];
        fails(
            &broken(|f| {
                f.u32("llama.vocab_size", size);
            }),
            Config,
            expected,
        );
        let tokens: Vec<_> = (0..size).map(|i| i.to_string()).collect();
        fails(
            &broken(|f| {
                f.strings("tokenizer.ggml.tokens", &tokens);
            }),
            Config,
            expected,
        );
    }
    let factors = |f: &mut Gguf, data: Vec<u8>| {
        {
            f.tensor("rope_freqs.weight", &[data.len() as u64 / 4], 0, data);
        };
    };
    fails(&broken(|f| factors(f, vec![0; 16])), Config, &["rope scaling"]);
    fails(&broken(|f| factors(f, 1f32.to_le_bytes().to_vec())), Config, &["rope scaling"]);
}

#[test]
fn not_finite() {
    let mut file = tiny("llama");
    let embedding = file.tensor_mut("token_embd.weight");
    embedding.ty = 2;
    embedding.data = vec![0; 24 * 18];
    embedding.data[5 * 18..5 * 18 + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    let checkpoint = load(&file.build()).unwrap();
    let check = |name: &str| checkpoint.check_values(checkpoint.need(name).unwrap());
    check_error(
        &check("token_embd.weight").unwrap_err(),
        ErrorKind::Tensor,
        &["token_embd.weight", "row 5"],
    );
    check("output_norm.weight").unwrap();
}

/// Loads a folder of this configuration and these weights, which must fail.
#[track_caller]
fn folder_fails(config: &str, weights: &[u8], kind: ErrorKind, named: &[&str]) {
    let before = ALLOCATED.get();
    let result = fuzzing::folder(config.as_bytes(), weights).and_then(|folder| folder.check());
    let allocated = ALLOCATED.get() - before;
    check_error(&result.expect_err("must not load"), kind, named);
    let len = config.len() + weights.len();
    assert!(allocated <= 64 * len + 65_536, "{allocated} bytes for {len}");
    let loaded = fuzzing::folder(config.as_bytes(), weights).and_then(fuzzing::run);
    check_error(&loaded.expect_err("must not load"), kind, named);
}

#[test]
fn safetensors_headers() {
    use ErrorKind::{Format, Tensor, Unsupported};
    let config = tiny_config().to_string();
    let fail = |weights: &[u8], kind, named: &[&str]| folder_fails(&config, weights, kind, named);
    let header = |info: Value| with_header(&json!({"a": info}).to_string(), &[0; 16]);
    fail(b"", Format, &["too short"]);
    fail(&u64::MAX.to_le_bytes(), Format, &["header of"]);
    fail(&99_999_999u64.to_le_bytes(), Format, &["header of", "truncated"]);
    fail(&with_header("[]", &[]), Format, &["header"]);
    fail(&with_header(&"[".repeat(100_000), &[]), Format, &["header"]);
    fail(&with_header("{\"a\":{}}", &[]), Format, &["tensor \"a\""]);
    let good = json!({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]});
    let twice = format!("{{\"a\":{good},\"a\":{good}}}");
    fail(&with_header(&twice, &[0; 16]), Format, &["\"a\"", "twice"]);
    fail(&with_header(&json!({"a": good, "b": good}).to_string(), &[0; 16]), Format, &["overlaps"]);
    fail(&with_header(&json!({"a": good}).to_string(), &[0; 15]), Format, &["\"a\"", "truncated"]);
    fail(&with_header(&json!({"a": good}).to_string(), &[0; 17]), Format, &["16 bytes", "17"]);
    for (info, named) in [
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}), "gap"),
        (json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "zero"),
        (json!({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}), "[5]"),
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [0, u64::MAX]}), "not inside"),
        (json!({"dtype": "U8", "shape": [1u64 << 63, 2], "data_offsets": [0, 16]}), "too large"),
        (json!({"dtype": "F32", "shape": [-1], "data_offsets": [0, 16]}), "\"a\""),
        (json!({"dtype": "Q", "shape": [4], "data_offsets": [0, 16]}), "\"a\""),
    ] {
        fail(&header(info), Format, &[named]);
    }
    let fp8 = json!({"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]});
    fail(&header(fp8), Unsupported, &["\"a\"", "F8_E4M3"]);
    fail(&header(good), Tensor, &["token_embd.weight", "missing"]);
    let mut tensors = tiny_tensors();
    tensors[4].1 = vec![32, 16];
    fail(&safetensors::build(&tensors), Tensor, &["blk.0.attn_q.weight", "[32, 16]", "[32, 32]"]);
    tensors = tiny_tensors();
    tensors.remove(2);
    fail(&safetensors::build(&tensors), Tensor, &["output.weight", "missing"]);
}

#[test]
fn config_json() {
    use ErrorKind::{Config, Format};
    let weights = safetensors::build(&tiny_tensors());
    folder_fails("", &weights, Format, &["JSON"]);
    folder_fails("[]", &weights, Format, &["JSON"]);
    folder_fails(&"[".repeat(1 << 16), &weights, Format, &["JSON"]);
    for key in
        ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"]
    {
        let mut config = tiny_config();
        config.as_object_mut().unwrap().remove(key);
        folder_fails(&config.to_string(), &weights, Config, &[key, "missing"]);
        for bad in [json!(-1), json!(1.5), json!([]), json!({})] {
            config[key] = bad;
            folder_fails(&config.to_string(), &weights, Config, &[key]);
        }
    }
    let mut config = tiny_config();
    config["vocab_size"] = json!(20);
    folder_fails(&config.to_string(), &weights, Config, &["smaller", "24 rows"]);
    config["num_hidden_layers"] = json!(u64::MAX);
    folder_fails(&config.to_string(), &weights, Config, &["num_hidden_layers"]);
}

#[test]
fn paths() {
    let open = |path: &std::path::Path| Checkpoint::open(path, &ReadOptions::default());
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    check_error(&open(&at("none.gguf")).unwrap_err(), ErrorKind::Io, &["none.gguf"]);
    check_error(&open(dir.path()).unwrap_err(), ErrorKind::Format, &["config.json"]);
    for (name, content, kind, named) in [
        ("empty", &b""[..], ErrorKind::Format, "empty"),
        ("text", b"hello", ErrorKind::Format, "hello"),
        ("old", b"tjgg\x03\0\0\0", ErrorKind::Unsupported, "old GGML"),
        ("zip", b"PK\x03\x04....", ErrorKind::Unsupported, "PyTorch"),
        ("lfs", b"version https://git-lfs.github.com/spec/v1\n", ErrorKind::Unsupported, "LFS"),
        ("short", b"GGUF\x03\0", ErrorKind::Format, "truncated"),
    ] {
        std::fs::write(at(name), content).unwrap();
        check_error(&open(&at(name)).unwrap_err(), kind, &[name, named]);
    }
    write_tiny(dir.path());
    std::fs::remove_file(at("model.safetensors")).unwrap();
    let folder = open(dir.path()).unwrap();
    let error = folder.check().unwrap_err();
    check_error(&error, ErrorKind::Tensor, &["no weights"]);

    let index = at("model.safetensors.index.json");
    for (map, named) in [
        (json!({"weight_map": {"a": "../secret.safetensors"}}), "secret"),
        (json!({"weight_map": {"a": "/etc/passwd"}}), "passwd"),
        (json!({"weight_map": {"a": 1}}), "\"a\""),
        (json!({}), "weight_map"),
        (json!({"weight_map": {"a": "gone.safetensors"}}), "gone.safetensors"),
    ] {
        std::fs::write(&index, map.to_string()).unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    std::fs::write(at("s.safetensors"), safetensors::build(&[("b", vec![1])])).unwrap();
    std::fs::write(&index, json!({"weight_map": {"a": "s.safetensors"}}).to_string()).unwrap();
    check_error(&open(dir.path()).unwrap_err(), ErrorKind::Format, &["\"a\"", "s.safetensors"]);
    std::fs::write(at("config.json"), "{").unwrap();
    check_error(&open(dir.path()).unwrap_err(), ErrorKind::Format, &["config.json", "JSON"]);
}

/// A few bytes overwritten, then perhaps the end cut off.
fn mutate(
    bytes: &mut Vec<u8>,
    edits: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) {
    for (at, value) in edits {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn mutated_gguf_never_panics(edits in edits(), cut in prop::option::weighted(0.3, any::<prop::sample::Index>())) {
        let mut file = tiny("llama");
        // Little data, so that most edits hit the header.
        file.tensors.truncate(3);
        let mut bytes = file.build();
        let header = bytes.len() - (24 + 1 + 1) * 32 * 4;
        let mut head = bytes[..header].to_vec();
        mutate(&mut head, &edits, cut);
        if cut.is_none() {
            head.extend(bytes.drain(header..));
        }
        if let Ok(checkpoint) = fuzzing::gguf(&head) {
            fuzzing::exercise(&checkpoint);
            let _ = fuzzing::run(checkpoint);
        }
    }

    #[test]
    fn mutated_folder_never_panics(
        in_config in edits(),
        in_weights in edits(),
        cut in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        let mut config = tiny_config().to_string().into_bytes();
        mutate(&mut config, &in_config, None);
        let mut weights = safetensors::build(&tiny_tensors());
        let data = weights.split_off(8 + 1200);
        mutate(&mut weights, &in_weights, cut);
        weights.extend(data);
        for config in [&config[..], tiny_config().to_string().as_bytes()] {
            if let Ok(checkpoint) = fuzzing::folder(config, &weights) {
                fuzzing::exercise(&checkpoint);
                let _ = fuzzing::run(checkpoint);
            }
        }
    }
}
