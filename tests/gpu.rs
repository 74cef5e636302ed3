//! Models on a device, with none, one, half and all of their layers there, against the reference and the
//! CPU.
#![cfg(feature = "gpu")]
#![allow(clippy::print_stderr)]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};

use common::reference::{Reference, relative_rmse};
use common::{assets, continued, greedy_past_ends, told};
use goldcrest::{ErrorKind, GpuLayers, KvType, Model, SessionOptions};

/// The device that `GOLDCREST_GPU` names, else a software one. Where there is none, a test says that
/// it has not run; with `GOLDCREST_REQUIRE_GPU` that is a failure.
fn device() -> Option<String> {
    let named = std::env::var("GOLDCREST_GPU").ok();
    let known = goldcrest::gpu_devices();
    let names = || known.iter().map(|device| device.name.to_lowercase());
    let software =
        || ["llvmpipe", "swiftshader"].into_iter().find(|s| names().any(|n| n.contains(s)));
    let device = named.or_else(|| software().map(str::to_owned));
    if device.is_none() {
        let required = std::env::var_os("GOLDCREST_REQUIRE_GPU").is_some();
        assert!(!required, "no device to test on");
        // Past the harness's capture, which hides what a passing test says.
        let _ = std::io::stderr().write_all(b"\nNOT RUN: no device to test on\n");
    }
    device
}

fn load(path: &Path, device: &str, layers: GpuLayers) -> Model {
    let loader = Model::loader(path).context(128).threads(2).kv(KvType::F32);
    loader.gpu(Some(device), layers).load().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Folders of golden cases with their names.
fn cases() -> Vec<(String, PathBuf)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let golden = assets().map(|assets| assets.join("golden"));
    let folders = golden.into_iter().chain([own]);
    let mut cases: Vec<_> = folders
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.safetensors").exists())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .collect();
    cases.sort();
    cases
}

fn check(case: &str, golden: &Reference, model: &Model, what: &str) {
    let ids = golden.ids("input_ids");
    let want = golden.floats("logits");
    let error = relative_rmse(&common::logits(model, &ids), &want);
    // Row by row, as in decoding.
    let mut session = model.session_with(SessionOptions::default().context(100)).unwrap();
    let rows: Vec<f32> = ids.chunks(1).flat_map(|id| session.logits_all(id).unwrap()).collect();
    let alone = relative_rmse(&rows, &want);
    eprintln!("{case} {what}: {error:.1e}, row by row {alone:.1e}");
    assert!(error < 0.005 && alone < 0.005, "{case} {what}: {error}, {alone}");
    let greedy = continued(model, &ids, greedy_past_ends(24));
    assert_eq!(greedy, golden.ids("greedy_ids"), "{case} {what}");
}

/// Runs of a model's golden prompt that need no more than the folder.
fn golden(folder: &Path) -> Reference {
    Reference::open(folder.join("golden.safetensors"))
}

#[test]
fn golden_models_run_on_a_device() {
    let Some(device) = device() else { return };
    for (case, folder) in cases() {
        if let Err(error) = Model::loader(&folder).context(128).load() {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{case}: {error}");
            continue;
        }
        let model = load(&folder, &device, GpuLayers::All);
        let offload = model.offload().unwrap();
        for block in &offload.blocks {
            let known = ["attention", "feed-forward", "experts"];
            let ours = block.kind.split(" beside ").all(|kind| known.contains(&kind));
            assert_eq!(block.on_device, ours, "{case}: {block:?}");
        }
        // Several residual streams become one here, before the output.
        assert_eq!(offload.head, !case.starts_with("gemma3n"), "{case}");
        check(&case, &golden(&folder), &model, "all");
    }
}

#[test]
fn some_layers_run_on_a_device() {
    let Some(device) = device() else { return };
    let some = ["granitemoehybrid", "cohere2", "qwen2_moe", "glm4_moe", "smollm3"];
    for (case, folder) in cases().into_iter().filter(|(case, _)| some.contains(&case.as_str())) {
        let layers = Model::loader(&folder).context(128).load().unwrap().config().n_layers();
        for count in [0, 1, layers.div_ceil(2), layers] {
            let model = load(&folder, &device, GpuLayers::Count(count));
            let offload = model.offload().unwrap();
            assert_eq!(offload.head, count > 0, "{case} {count}");
            let there = offload.blocks.iter().filter(|block| block.on_device).count();
            assert_eq!(there > 0, count > 1, "{case} {count}");
            assert!(
                !offload.blocks[0].on_device,
                "{case} {count}: the first layer is the last to go"
            );
            check(&case, &golden(&folder), &model, &format!("{count} layers"));
        }
    }
}

/// Activations of a prompt stay floats there: nothing but the rounding of sums is between the two. Row by
/// row they are bytes, as on the CPU.
#[test]
fn quantised_weights_are_those_of_the_reference() {
    let Some(device) = device() else { return };
    let Some(assets) = assets() else { return };
    let folder = assets.join("golden/llama_256/gguf");
    for format in
        ["F16", "Q8_0", "Q4_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K", "Q2_K", "Q3_K_M", "IQ4_XS"]
    {
        let file = |end: &str| folder.join(format!("llama_256-{format}.{end}"));
        let golden = Reference::open(file("golden.safetensors"));
        let model = load(&file("gguf"), &device, GpuLayers::All);
        let ours = common::logits(&model, &golden.ids("input_ids"));
        let error = relative_rmse(&ours, &golden.floats("logits"));
        let mut session = model.session_with(SessionOptions::default().context(100)).unwrap();
        let ids = golden.ids("input_ids");
        let rows: Vec<f32> = ids.chunks(1).flat_map(|id| session.logits_all(id).unwrap()).collect();
        let alone = relative_rmse(&rows, &golden.floats("logits"));
        let cpu = Model::loader(file("gguf")).context(128).threads(2).load().unwrap();
        let cpu = relative_rmse(&common::logits(&cpu, &ids), &golden.floats("logits"));
        eprintln!("{format}: {error:.1e}, row by row {alone:.1e}, CPU {cpu:.1e}");
        assert!(error < 1e-4 && alone < 1.2 * cpu + 1e-4, "{format}: {error}, {alone}, {cpu}");
    }
}

#[test]
#[cfg(feature = "embedded-model")]
fn a_device_tells_the_story_of_the_cpu() {
    let Some(device) = device() else { return };
    let loader = || Model::embedded().threads(2);
    let model = loader().gpu(Some(&device), GpuLayers::All).load().unwrap();
    let cpu = loader().load().unwrap();
    for prompt in ["Once upon a time", "The king had three daughters"] {
        let tell = |model| told(model, prompt, greedy_past_ends(100));
        assert_eq!(tell(&model), tell(&cpu));
    }
}

/// Contexts whose attention is cut into chunks, that go back, and that are shorter than the model's.
#[test]
#[cfg(feature = "embedded-model")]
fn long_texts_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    let loader = || Model::embedded().threads(2).kv(KvType::F32);
    let model = loader().gpu(Some(&device), GpuLayers::All).load().unwrap();
    let cpu = loader().load().unwrap();
    let vocab = cpu.config().vocab_size() as u32;
    let ids: Vec<u32> = (0..250).map(|i| i * 7919 % vocab).collect();
    let want = common::logits(&cpu, &ids);
    let width = vocab as usize;
    let mut session = model.session_with(SessionOptions::default().context(251)).unwrap();
    session.push(&ids[..150]).unwrap();
    let rows: Vec<f32> =
        ids[150..].chunks(1).flat_map(|id| session.logits_all(id).unwrap()).collect();
    assert!(relative_rmse(&rows, &want[150 * width..]) < 0.02);
    session.rewind(150).unwrap();
    let again: Vec<f32> =
        ids[150..].chunks(1).flat_map(|id| session.logits_all(id).unwrap()).collect();
    assert_eq!(again, rows);
    // As a prompt, whose activations stay floats.
    session.rewind(100).unwrap();
    let prompt = session.logits_all(&ids[100..]).unwrap();
    assert!(relative_rmse(&prompt[50 * width..], &rows) < 0.02);
}

#[test]
#[cfg(feature = "embedded-model")]
fn sessions_share_a_device() {
    let Some(device) = device() else { return };
    let loader = Model::embedded().threads(2).gpu(Some(&device), GpuLayers::All);
    let model = loader.load().unwrap();
    let prompts = ["Once upon a time", "A wolf and a fox", "In the deep wood", "The old woman"];
    let tell = |prompt: &str| told(&model, prompt, greedy_past_ends(40));
    let alone: Vec<_> = prompts.iter().map(|prompt| tell(prompt)).collect();
    let beside: Vec<_> = std::thread::scope(|scope| {
        let start = |prompt: &'static str| scope.spawn(move || tell(prompt));
        let threads: Vec<_> = prompts.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(alone, beside);
}

/// At most six dispatches a layer of a dense model, with attention in chunks, and two for the output.
#[test]
fn a_token_takes_few_dispatches() {
    let Some(device) = device() else { return };
    let Some(assets) = assets() else { return };
    for case in ["llama", "qwen2", "qwen3", "gemma2", "gemma3_7l", "mistral"] {
        let model = load(&assets.join("golden").join(case), &device, GpuLayers::All);
        let (offload, layers) = (model.offload().unwrap(), model.config().n_layers());
        eprintln!("{case}: {} dispatches, {layers} layers", offload.dispatches);
        // Each layer has one attention, which takes one more when it is in chunks.
        assert!(offload.dispatches + layers <= 6 * layers + 2, "{case}: {offload:?}");
    }
}

#[test]
fn what_a_device_cannot_do_is_an_error() {
    let Some(device) = device() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm3");
    let refused = |loader: goldcrest::Loader, kind, words: &str| {
        let error = loader.load().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    };
    let loader = || Model::loader(&folder).gpu(Some(&device), GpuLayers::All);
    refused(loader().deterministic(true), ErrorKind::Input, "deterministic");
    refused(loader().kv(KvType::Q8_0), ErrorKind::Input, "f16 or f32");
    let nosuch = Model::loader(&folder).gpu(Some("nosuch"), GpuLayers::All);
    refused(nosuch, ErrorKind::Input, "no GPU \"nosuch\"");
}
