//! Passes of several runs, and keys and values in rings, against passes of one run that keep all.

use std::path::Path;

use super::*;
use crate::load::{Checkpoint, ReadOptions};
use crate::model::weights::Watch;
use crate::synthetic::{Mixture, Shape, save};
use goldcrest_kernels::{Format, Isa, KvType};

const CONTEXT: usize = 1200;

/// Two layers of each kind: full attention and, in gemma, a window; dense or of experts.
fn shapes() -> impl Iterator<Item = Shape> {
    ["llama", "gemma3", "qwen3moe"].into_iter().map(|arch| Shape {
        name: "tiny",
        arch,
        hidden: 256,
        ffn: 320,
        n_layers: if arch == "gemma3" { 6 } else { 2 },
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 32,
        vocab: 320,
        tied: true,
        context_length: 4096,
        window: (arch == "gemma3").then_some(9),
        experts: (arch == "qwen3moe").then_some([7, 3, 96]),
        ..Shape::by_name("smollm2-135m").unwrap().clone()
    })
}

/// Models of what no shape has: recurrent states, alone and beside attention, latents, several residual
/// streams.
const FIXTURES: &[&str] = &[
    "falcon_h1",
    "gemma3n_text",
    "granitemoehybrid",
    "lfm2_moe",
    "minicpm3",
    "nemotron_h",
    "qwen3_next",
];

/// Tokens that all models here have.
const VOCAB: u32 = 96;

fn engine(
    shape: &Shape,
    mixture: &str,
    kernels: &'static Kernels,
    threads: usize,
) -> (Graph, Engine) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    save(shape, Mixture::by_name(mixture).unwrap(), 3, &path).unwrap();
    engine_of(&path, None, kernels, threads)
}

/// Of a fixture, with its matrices in `quantize` where their widths are multiples of its blocks.
fn fixture(case: &str, quantize: Option<Format>, threads: usize) -> (Graph, Engine) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let path = fixtures.join(case).join(format!("{case}-F16.gguf"));
    engine_of(&path, quantize, Kernels::best(), threads)
}

fn engine_of(
    path: &Path,
    quantize: Option<Format>,
    kernels: &'static Kernels,
    threads: usize,
) -> (Graph, Engine) {
    let checkpoint = Checkpoint::open(path, &ReadOptions { mmap: false }).unwrap();
    let spec = checkpoint.spec(&checkpoint.decoder().unwrap()).unwrap();
    let watch = Watch { progress: &|_, _| (), cancel: &CancelToken::default() };
    let weights = Weights::load(checkpoint, &spec, quantize, &watch, |_, _| Ok(())).unwrap();
    (Graph::new(weights, kernels, CONTEXT).unwrap(), Engine::new(Team::new(threads).unwrap()))
}

fn start(graph: &Graph) -> Run {
    Run { state: State::new(graph.spec(), KvType::F16, CONTEXT).unwrap(), ..Run::default() }
}

fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + seed * 101 + i * i % 11) % VOCAB).collect()
}

/// Gives `run` its next tokens and asks for the logits of all of them.
fn ask(graph: &Graph, run: &mut Run, ids: &[u32]) {
    run.ids = ids.to_vec();
    run.wants = ids.len();
    run.logits = vec![f32::NAN; ids.len() * graph.spec().vocab];
}

/// The bits of the logits after each of `ids`, in passes of `piece` tokens of a run by itself.
fn alone(graph: &Graph, engine: &mut Engine, mut run: Run, ids: &[u32], piece: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    for ids in ids.chunks(piece) {
        ask(graph, &mut run, ids);
        graph.run(engine, std::slice::from_mut(&mut run)).unwrap();
        bits.extend(run.logits.iter().map(|x| x.to_bits()));
    }
    bits
}

#[test]
fn runs_together_have_the_bits_that_they_have_alone() {
    for shape in shapes() {
        for (mixture, threads) in [("q4_k_m", 2), ("q4_0", 3), ("f16", 1)] {
            let kernels = Kernels::for_isa(Isa::best()).unwrap();
            let (graph, engine) = engine(&shape, mixture, kernels, threads);
            check_together(&format!("{} {mixture}", shape.arch), &graph, engine);
        }
    }
    for case in FIXTURES {
        for (quantize, threads) in [(None, 3), (Some(Format::Q8_0), 2)] {
            let (graph, engine) = fixture(case, quantize, threads);
            check_together(&format!("{case} {quantize:?}"), &graph, engine);
        }
    }
}

fn check_together(what: &str, graph: &Graph, mut engine: Engine) {
    let texts: Vec<Vec<u32>> = [40, 3, 300, 17].map(|n| tokens(n, n as usize)).into();
    let want: Vec<_> =
        texts.iter().map(|ids| alone(graph, &mut engine, start(graph), ids, 7)).collect();
    // Pieces of different lengths side by side: prompts, single rows, and both.
    let pieces = [[11, 1, 90, 1], [1, 1, 1, 1], [5, 1, 60, 14], [1, 0, 149, 1]];
    let mut runs: Vec<Run> = texts.iter().map(|_| start(graph)).collect();
    let mut got = vec![Vec::new(); texts.len()];
    for lengths in pieces {
        let mut pass = Vec::new();
        for (i, run) in runs.iter_mut().enumerate() {
            let from = run.state.len();
            let ids = &texts[i][from..][..lengths[i].min(texts[i].len() - from)];
            if !ids.is_empty() {
                ask(graph, run, ids);
                pass.push((i, std::mem::take(run)));
            }
        }
        let (at, mut together): (Vec<_>, Vec<_>) = pass.into_iter().unzip();
        graph.run(&mut engine, &mut together).unwrap();
        for (i, run) in at.into_iter().zip(together) {
            got[i].extend(run.logits.iter().map(|x| x.to_bits()));
            runs[i] = run;
        }
    }
    for (i, got) in got.iter().enumerate() {
        assert!(!got.is_empty() && *got == want[i][..got.len()], "{what}, run {i}");
    }
}

#[test]
fn a_ring_has_the_bits_of_all_positions() {
    let shape = shapes().find(|shape| shape.window.is_some()).unwrap();
    for kernels in Isa::supported().map(|isa| Kernels::for_isa(isa).unwrap()) {
        let (graph, mut engine) = engine(&shape, "q8_0", kernels, 2);
        let ids = tokens(5, CONTEXT - 100);
        let mut all = start(&graph);
        all.state = State::without_rings(graph.spec(), KvType::F16, CONTEXT).unwrap();
        let want = alone(&graph, &mut engine, all, &ids, 200);
        for piece in [256, 31] {
            let run = start(&graph);
            assert!(alone(&graph, &mut engine, run, &ids, piece) == want, "pieces of {piece}");
        }
    }
}

#[test]
fn a_ring_goes_back_as_far_as_it_has_what_is_seen() {
    let shape = shapes().find(|shape| shape.window.is_some()).unwrap();
    let (graph, mut engine) = engine(&shape, "q8_0", Kernels::best(), 2);
    let ids = tokens(5, 700);
    let want = alone(&graph, &mut engine, start(&graph), &ids, 256);
    let mut run = start(&graph);
    for ids in ids.chunks(256) {
        ask(&graph, &mut run, ids);
        graph.run(&mut engine, std::slice::from_mut(&mut run)).unwrap();
    }
    for (asked, expected) in [(690, 690), (600, 600), (3, 0)] {
        assert_eq!(run.state.rewind(asked), expected);
        while run.state.len() < ids.len() {
            let from = run.state.len();
            ask(&graph, &mut run, &ids[from..ids.len().min(from + 256)]);
            graph.run(&mut engine, std::slice::from_mut(&mut run)).unwrap();
            let got: Vec<u32> = run.logits.iter().map(|x| x.to_bits()).collect();
            assert!(got == want[from * 320..][..got.len()], "from {from} on");
        }
    }
}

#[test]
fn a_pass_ends_early_only_when_all_runs_are_cancelled() {
    let (graph, mut engine) = engine(&shapes().next().unwrap(), "q4_0", Kernels::best(), 2);
    let mut runs = [start(&graph), start(&graph)];
    runs.iter_mut().for_each(|run| ask(&graph, run, &tokens(1, 9)));
    runs.iter_mut().for_each(|run| run.cancel = CancelToken::new());
    runs[0].cancel.cancel();
    graph.run(&mut engine, &mut runs).unwrap();
    assert_eq!(runs.each_ref().map(|run| run.state.len()), [9, 9]);
    runs[1].cancel.cancel();
    let error = graph.run(&mut engine, &mut runs).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(runs.each_ref().map(|run| run.state.len()), [9, 9]);
}

#[test]
fn a_pass_takes_what_was_foretold() {
    let shapes = shapes();
    let shapes = shapes.map(|shape| (shape.arch, engine(&shape, "q4_k_m", Kernels::best(), 3)));
    let fixtures = FIXTURES.iter().map(|case| (*case, fixture(case, Some(Format::Q8_0), 3)));
    for (name, (graph, mut engine)) in shapes.chain(fixtures) {
        let foretold = scratch_bytes(graph.spec(), graph.kernels, 3).unwrap();
        let mut run = start(&graph);
        ask(&graph, &mut run, &tokens(3, BATCH));
        graph.run(&mut engine, std::slice::from_mut(&mut run)).unwrap();
        assert_eq!(engine.scratch.held() as u64, foretold, "{name}");
    }
}
