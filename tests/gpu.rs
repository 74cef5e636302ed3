//! Golden models on a device: with none, one, half and all of their layers there.
#![cfg(feature = "gpu")]
#![allow(clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};

use common::reference::{Reference, relative_rmse};
use common::{assets, continued, greedy_past_ends};
use goldcrest::{GpuLayers, KvType, Model, SessionOptions};

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
        eprintln!("NOT RUN: no device to test on");
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

#[test]
fn golden_models_run_on_a_device() {
    let Some(device) = device() else { return };
    for (case, folder) in cases() {
        if Model::loader(&folder).context(128).load().is_err() {
            continue;
        }
        let golden = Reference::open(folder.join("golden.safetensors"));
        let model = load(&folder, &device, GpuLayers::All);
        let offload = model.offload().unwrap();
        for block in &offload.blocks {
            let known = ["attention", "feed-forward", "experts"];
            let ours = block.kind.split(" beside ").all(|kind| known.contains(&kind));
            assert_eq!(block.on_device, ours, "{case}: {block:?}");
        }
        // Several residual streams become one here, before the output.
        assert_eq!(offload.head, !case.starts_with("gemma3n"), "{case}");
        check(&case, &golden, &model, "all");
    }
}
