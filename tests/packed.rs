//! Packed files: the same model from another file, and nothing from a damaged one.
#![allow(clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};

use common::gguf::tiny;
use common::models::{self, random_of, stories};
use common::safetensors::write_tiny;
use common::{assets, bits, greedy, greedy_past_ends, told};
use goldcrest::load::{Checkpoint, FileKind, GgmlType, ReadOptions, fuzzing};
use goldcrest::{Error, ErrorKind, Format, KvType, Model};
use tempfile::TempDir;

/// Token by token: the bits of logits, and the greedy text.
fn outcome(path: &Path, mmap: bool) -> (Vec<u32>, Vec<u32>) {
    let loader = Model::loader(path).threads(2).kv(KvType::F32).mmap(mmap);
    let model = loader.load().unwrap_or_else(|e| panic!("{e}"));
    let ids = [1, 5, 9, 13, 21, 7, 11, 2];
    let mut session = model.session().unwrap();
    let bits = bits(&session.logits_all(&ids).unwrap());
    let generator = session.generate(greedy_past_ends(20)).unwrap();
    (bits, generator.map(|token| token.unwrap().id).collect())
}

fn packed(source: &Path, dir: &TempDir) -> PathBuf {
    let path = dir.path().join("model.gcpack");
    Model::loader(source).pack(&path).unwrap_or_else(|e| panic!("{e}"));
    path
}

/// Weights of every type that run, tied and untied, with biases and norms of heads; a folder; and the
/// model of the repository. The files are in `dir`.
fn made(dir: &TempDir) -> Vec<PathBuf> {
    let mut all = vec![stories(), dir.path().join("folder")];
    std::fs::create_dir(&all[1]).unwrap();
    write_tiny(&all[1]);
    let llamas = models::types().map(|ty| ("llama", ty));
    for (arch, ty) in llamas.chain([("qwen2", GgmlType::Q6_K), ("qwen3", GgmlType::F16)]) {
        let path = dir.path().join(format!("{arch}-{ty}.gguf"));
        std::fs::write(&path, random_of(arch, ty).build()).unwrap();
        all.push(path);
    }
    // One norm for two branches; queries, keys and values head by head in one tensor; codes and scales
    // apart; factors that no tensor has; matrices by number.
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let cases = ["phi", "gpt_neox", "phi4_mini", "gpt_oss_mxfp4", "falcon_h1", "gemma3n_text"];
    all.extend(cases.map(|case| fixtures.join(case)));
    assert!(all.len() > 10);
    all
}

/// Files that others wrote.
fn foreign(assets: &Path) -> Vec<PathBuf> {
    let stories = assets.join("models/stories260K/derived");
    let mut all: Vec<PathBuf> = ["F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
        .iter()
        .map(|format| stories.join(format!("stories260K-{format}.gguf")))
        .chain(["hf-llama", "hf-qwen2-transplant"].map(|folder| stories.join(folder)))
        .collect();
    for case in ["llama_256", "qwen2_256"] {
        for format in [
            "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M",
            "Q6_K", "IQ3_S", "Q2_K", "Q3_K_M", "IQ4_NL", "IQ4_XS",
        ] {
            all.push(assets.join(format!("golden/{case}/gguf/{case}-{format}.gguf")));
        }
    }
    let cases = ["llama_tied_rope3", "mistral", "qwen3", "gpt2"];
    all.extend(cases.map(|case| assets.join("golden").join(case)));
    all
}

#[test]
fn a_packed_file_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    are_the_same_packed(made(&dir));
}

#[test]
fn a_packed_file_is_the_same_model_as_what_others_wrote() {
    let Some(assets) = assets() else { return };
    are_the_same_packed(foreign(&assets));
}

fn are_the_same_packed(sources: Vec<PathBuf>) {
    for source in sources {
        let name = source.display();
        let dir = tempfile::tempdir().unwrap();
        let path = packed(&source, &dir);
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(files.len(), 1, "{name}: something is left beside the file");
        let want = outcome(&source, true);
        assert!(outcome(&path, true) == want, "{name}: mapped");
        assert!(outcome(&path, false) == want, "{name}: read");

        let (before, after) = (open(&source), open(&path));
        assert_eq!(before.config().unwrap(), after.config().unwrap(), "{name}");
        assert_eq!(before.generation_defaults().unwrap(), after.generation_defaults().unwrap());
        after.verify().unwrap();
        after.check().unwrap();
        assert!(matches!(after.kind(), FileKind::Packed { version: 1 }));
        assert_eq!(after.packed_source().unwrap().bytes, before.file_bytes());
    }
}

#[test]
fn the_text_of_a_packed_file_is_the_sources() {
    texts_are_the_same_packed(&[stories()]);
}

#[test]
fn the_text_of_a_packed_file_is_that_of_what_others_wrote() {
    let Some(assets) = assets() else { return };
    let folder = assets.join("models/stories260K/derived");
    let files = ["stories260K-F32.gguf", "stories260K-Q4_0.gguf", "hf-llama"];
    texts_are_the_same_packed(&files.map(|file| folder.join(file)));
}

fn texts_are_the_same_packed(sources: &[PathBuf]) {
    for source in sources {
        let dir = tempfile::tempdir().unwrap();
        let path = packed(source, &dir);
        let text = |path: &Path| told(&Model::open(path).unwrap(), "Once upon a time", greedy(64));
        let want = text(source);
        assert!(want.len() > 100, "{}: {want:?}", source.display());
        assert_eq!(text(&path), want, "{}", source.display());
    }
}

#[test]
fn sizes() {
    let dir = tempfile::tempdir().unwrap();
    sizes_of(made(&dir));
}

#[test]
fn sizes_of_what_others_wrote() {
    let Some(assets) = assets() else { return };
    sizes_of(foreign(&assets));
}

/// Within 3% and what alignment adds: 64 KB a section, 4 KB a matrix, the panels' sixteen rows.
fn sizes_of(sources: Vec<PathBuf>) {
    for source in sources.iter().filter(|path| path.is_file()) {
        let dir = tempfile::tempdir().unwrap();
        let path = packed(source, &dir);
        let size = |path: &Path| std::fs::metadata(path).unwrap().len() as f64;
        let (before, after) = (size(source), size(&path));
        let matrices = open(&path).tensors().iter().filter(|tensor| tensor.is_packed()).count();
        let alignment = (3 * 65_536 + matrices * 4096) as f64;
        eprintln!("{}: {before} to {after}", source.display());
        assert!(after <= before * 1.03 + alignment, "{}: {after}", source.display());
    }
}

#[test]
fn quantising_while_packing_is_quantising_while_loading() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("random.gguf");
    std::fs::write(&file, models::random(GgmlType::F32).build()).unwrap();
    is_quantised_the_same(&file);
}

#[test]
fn quantising_a_folder_while_packing_is_quantising_while_loading() {
    let Some(assets) = assets() else { return };
    is_quantised_the_same(&assets.join("golden/llama_256"));
}

fn is_quantised_the_same(source: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q4");
    Model::loader(source).quantize(Format::Q4_0).pack(&path).unwrap();
    let logits = |loader: goldcrest::Loader| {
        let model = loader.load().unwrap();
        model.session().unwrap().logits_all(&[1, 2, 3]).unwrap()
    };
    let want = logits(Model::loader(source).quantize(Format::Q4_0));
    assert_eq!(logits(Model::loader(&path)), want);
    // It has no floats left to quantise, but for those of another type.
    assert_eq!(logits(Model::loader(&path).quantize(Format::Q4_0)), want);
    let floats = dir.path().join("f32");
    Model::loader(source).pack(&floats).unwrap();
    let error = Model::loader(&floats).quantize(Format::Q8_0).load().unwrap_err();
    assert!(error.to_string().contains("while packing"), "{error}");
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path, &ReadOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// The bytes of a small packed file, of a GGUF file with an untied embedding.
fn small() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let mut file = tiny("llama");
    // One that is not the embedding's.
    file.f32_tensor("output.weight", &[24, 32]).tensor_mut("output.weight").data[3] = 0x40;
    std::fs::write(dir.path().join("tiny.gguf"), file.build()).unwrap();
    std::fs::read(packed(&dir.path().join("tiny.gguf"), &dir)).unwrap()
}

#[track_caller]
fn fails(bytes: &[u8], kind: ErrorKind, parts: &[&str]) {
    let error = fuzzing::packed(bytes).expect_err("must not open");
    check(&error, kind, parts);
}

#[track_caller]
fn check(error: &Error, kind: ErrorKind, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for part in parts {
        assert!(text.contains(part), "no \"{part}\" in: {text}");
    }
    assert!(text.len() < 500 && !text.contains('\n'), "{text}");
}

/// With bytes changed and the checksums made right again.
fn sealed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    fuzzing::seal(&mut file);
    file
}

#[test]
fn headers() {
    use ErrorKind::{Format, Unsupported};
    let whole = small();
    let mut same = whole.clone();
    fuzzing::seal(&mut same);
    assert!(same == whole, "sealing a sound file changes nothing");
    fuzzing::packed(&whole).unwrap();
    fails(b"", Format, &["header"]);
    let change = |at: usize, with: &[u8]| {
        let mut file = whole.clone();
        file[at..at + with.len()].copy_from_slice(with);
        file
    };
    fails(&change(0, b"PACKGOLD"), Format, &["magic"]);
    fails(&change(8, &[2]), Unsupported, &["version 2", "version 1", "pack the model again"]);
    fails(&change(12, &[4]), Format, &["4 sections"]);
    fails(&change(16, &[0xff; 8]), Format, &["head"]);
    fails(&change(24, &[0; 8]), Format, &["checksum"]);
    fails(&[&whole[..], b"x"].concat(), Format, &["appended"]);
    // Any byte of the head, and of the vectors.
    for at in (40..1000).chain([65_536, 65_600]) {
        fails(&change(at, &[whole[at] ^ 0x10]), Format, &["checksum"]);
    }
    // Panels of another layout.
    fails(&sealed(136, &[0; 8]), Unsupported, &["another version"]);
}

#[test]
fn every_truncation_fails() {
    let whole = small();
    for len in (0..4000).chain((4000..whole.len()).step_by(1009)) {
        fails(&whole[..len], ErrorKind::Format, &["truncated"]);
    }
}

#[test]
fn sections() {
    use ErrorKind::Format;
    let number = |n: u64| n.to_le_bytes();
    for (i, name) in ["vectors", "rows", "panels"].into_iter().enumerate() {
        let at = 64 + 24 * i;
        fails(&sealed(at, &number(65_536 * (i as u64 + 1) + 64)), Format, &[name, "multiple"]);
        fails(&sealed(at, &number(0)), Format, &[name, "overlaps"]);
        fails(&sealed(at, &number(1 << 40)), Format, &[name, "outside"]);
        fails(&sealed(at, &number(u64::MAX - 65_535)), Format, &[name, "outside"]);
        fails(&sealed(at + 8, &number(u64::MAX)), Format, &[name, "outside"]);
        // Tensors that no longer fit.
        fails(&sealed(at + 8, &number(4)), Format, &["tensor", name, "truncated"]);
    }
    fails(&sealed(72, &number(70_000)), Format, &["rows", "overlaps"]);
}

#[test]
fn tensors() {
    use ErrorKind::{Format, Unsupported};
    let whole = small();
    // The record of the gate: name, two dimensions, type, offset, stride.
    let find = |name: &str| {
        let at = whole.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
        at + name.len()
    };
    let gate = find("blk.0.ffn_gate.weight");
    let (dims, ty, offset, stride) = (gate, gate + 20, gate + 24, gate + 32);
    let long = |n: u64| n.to_le_bytes();
    fails(&sealed(dims, &[5]), Format, &["ffn_gate", "5 dimensions"]);
    fails(&sealed(dims + 4, &long(0)), Format, &["ffn_gate", "zero"]);
    for huge in [1 << 20, 1 << 40, 1 << 63] {
        fails(&sealed(dims + 4, &long(huge)), Format, &["ffn_gate"]);
        fails(&sealed(dims + 12, &long(huge)), Format, &["ffn_gate"]);
        fails(&sealed(offset, &long(huge)), Format, &["ffn_gate", "outside"]);
        fails(&sealed(stride, &long(huge)), Format, &["ffn_gate", "outside"]);
    }
    fails(&sealed(ty, &[99]), Unsupported, &["ffn_gate", "99"]);
    fails(&sealed(ty, &[16]), Format, &["ffn_gate", "IQ2_XXS"]);
    fails(&sealed(stride, &long(64)), Format, &["ffn_gate", "every 64"]);
    let up = find("blk.0.ffn_up.weight");
    fails(&sealed(up + 24, &whole[offset..offset + 8]), Format, &["ffn_gate", "ffn_up", "overlap"]);
    let down = find("blk.0.ffn_down.weight");
    fails(&sealed(down + 24, &whole[offset..offset + 8]), Format, &["overlap"]);
    // The count is before the first record: its length of name, its name.
    let first = find("blk.0.attn_norm.weight") - "blk.0.attn_norm.weight".len() - 8;
    for count in [1 << 20, 1 << 40, u64::MAX] {
        let file = sealed(first - 8, &long(count));
        fails(&file, Format, &["tensors", &count.to_string(), "truncated"]);
    }
}

/// A file that opens and is not a model: the error comes with loading.
#[test]
fn panels_in_the_wrong_place() {
    let whole = small();
    let name = b"blk.0.attn_k.weight";
    let at = whole.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    // It has one panel: the way to the next leads nowhere, but is not what the model needs.
    let mut file = whole.clone();
    let stride = u64::from_le_bytes(file[at + 32..at + 40].try_into().unwrap());
    file[at + 32..at + 40].copy_from_slice(&(stride + 64).to_le_bytes());
    fuzzing::seal(&mut file);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gcpack");
    std::fs::write(&path, file).unwrap();
    let error = Model::open(&path).unwrap_err();
    check(&error, ErrorKind::Tensor, &["bad.gcpack", "attn_k", "panels"]);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Any change of the head is an error, or a file whose every part can be used; a model that
    /// loads from it runs.
    #[test]
    fn changed_heads(changes in proptest::collection::vec((0..2600usize, 0..=255u8), 1..6)) {
        use std::sync::OnceLock;
        static SMALL: OnceLock<Vec<u8>> = OnceLock::new();
        let mut file = SMALL.get_or_init(small).clone();
        for (at, byte) in changes {
            file[at] = byte;
        }
        fuzzing::seal(&mut file);
        if let Ok(checkpoint) = fuzzing::packed(&file) {
            fuzzing::exercise(&checkpoint);
            let _ = fuzzing::run(checkpoint);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("changed.gcpack");
            std::fs::write(&path, file).unwrap();
            if let Ok(model) = Model::loader(&path).threads(1).load() {
                let _ = model.session().and_then(|mut session| session.push(&[1, 2]));
            }
        }
    }
}

#[test]
fn damage_in_the_body_is_found_by_verify() {
    let mut file = small();
    let last = file.len() - 1;
    file[last] ^= 1;
    let checkpoint = fuzzing::packed(&file).unwrap();
    check(&checkpoint.verify().unwrap_err(), ErrorKind::Format, &["panels", "checksum"]);
}

#[test]
fn a_failed_packing_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("tiny.gguf");
    let mut file = tiny("llama");
    file.tensor_mut("blk.0.ffn_down.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&source, file.build()).unwrap();
    let out = dir.path().join("out.gcpack");
    let error = Model::loader(&source).pack(&out).unwrap_err();
    check(&error, ErrorKind::Tensor, &["ffn_down", "NaN"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

    std::fs::write(&source, tiny("llama").build()).unwrap();
    let error = Model::loader(&source).pack(&source).unwrap_err();
    check(&error, ErrorKind::Input, &["replace its source"]);
    Model::loader(&source).pack(&out).unwrap();
    let error = Model::loader(&out).pack(dir.path().join("again")).unwrap_err();
    check(&error, ErrorKind::Input, &["packed already"]);
}
