//! Attention on a device against a naive one in double precision: a prompt, then single rows.

mod common;

use std::sync::Arc;

use common::{Random, device};
use goldcrest_gpu::{
    Attention, Builder, Cache, CacheLayout, Class, Device, Floats, HeadNorm, Io, KvFormat, Pass,
    Plan, ROWS, RunAt, Tiles, Vectors, partials,
};

/// Heads and what is done to them.
#[derive(Debug, Clone)]
struct Case {
    heads: usize,
    kv_heads: usize,
    d: usize,
    format: KvFormat,
    window: Option<usize>,
    cap: Option<f32>,
    gated: bool,
    sinks: bool,
    norms: bool,
    norms_last: bool,
    centred: bool,
    rotated: usize,
    apart: bool,
    temperature: Option<(f32, usize)>,
}

const PLAIN: Case = Case {
    heads: 4,
    kv_heads: 2,
    d: 64,
    format: KvFormat::F32,
    window: None,
    cap: None,
    gated: false,
    sinks: false,
    norms: false,
    norms_last: false,
    centred: false,
    rotated: 0,
    apart: true,
    temperature: None,
};

const SCALE: f32 = 0.2;
const EPS: f32 = 1e-5;

/// Numbers that a case has.
struct Data {
    /// `[rows, stride]`
    qkv: Vec<f32>,
    angles: Vec<f32>,
    /// Weights of queries', keys' and values' norms, then sinks.
    weights: [Vec<f32>; 4],
}

impl Case {
    fn step(&self) -> usize {
        self.d * if self.gated { 2 } else { 1 }
    }

    fn stride(&self) -> usize {
        self.heads * self.step() + 2 * self.kv_heads * self.d
    }

    fn key(&self) -> usize {
        self.heads * self.step()
    }

    fn data(&self, rows: usize) -> Data {
        let mut random = Random(self.d as u64 * 31 + self.heads as u64);
        let qkv = random.floats(rows * self.stride()).iter().map(|x| x * 3.0).collect();
        let angle = |i: usize| ((i * 37 % 101) as f32 * 0.07).sin_cos();
        let pairs = self.rotated.max(1);
        let angles = (0..rows).flat_map(|row| {
            let all: Vec<_> = (0..pairs).map(|i| angle(row * pairs + i)).collect();
            let cos = all.iter().map(|a| a.1).collect::<Vec<_>>();
            cos.into_iter().chain(all.into_iter().map(|a| a.0))
        });
        let weights = [self.d, self.d, self.d, self.heads].map(|n| random.floats(n));
        Data { qkv, angles: angles.collect(), weights }
    }

    /// A head of a row, normalised and rotated. `kind`: 0 of queries, 1 of keys, 2 of values.
    fn head(&self, data: &Data, row: usize, at: usize, kind: usize) -> Vec<f64> {
        let own = &data.qkv[row * self.stride() + at..][..self.d];
        let mut x: Vec<f64> = own.iter().map(|&x| x.into()).collect();
        let normalise = |x: &mut Vec<f64>| {
            let n = x.len() as f64;
            let mean = if self.centred { x.iter().sum::<f64>() / n } else { 0.0 };
            let square = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            for (x, &w) in x.iter_mut().zip(&data.weights[kind]) {
                *x = (*x - mean) / (square + f64::from(EPS)).sqrt() * f64::from(w);
            }
        };
        let rotate = |x: &mut Vec<f64>| {
            let pairs = self.rotated.max(1);
            for i in 0..self.rotated {
                let (cos, sin) =
                    (data.angles[row * 2 * pairs + i], data.angles[row * 2 * pairs + pairs + i]);
                let (cos, sin) = (f64::from(cos), f64::from(sin));
                let (a, b) = if self.apart { (i, i + self.rotated) } else { (2 * i, 2 * i + 1) };
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
            }
        };
        if self.norms && !self.norms_last {
            normalise(&mut x);
        }
        if kind < 2 {
            rotate(&mut x);
        }
        if self.norms && self.norms_last {
            normalise(&mut x);
        }
        x
    }

    /// What a row attends to.
    fn oracle(&self, data: &Data, row: usize) -> Vec<f64> {
        let first = self.window.map_or(0, |window| (row + 1).saturating_sub(window));
        let factor = self.temperature.map_or(1.0, |(beta, step)| {
            1.0 + f64::from(beta) * f64::from((1 + row / step) as u32).ln()
        });
        (0..self.heads)
            .flat_map(|head| {
                let kv = head / (self.heads / self.kv_heads);
                let q = self.head(data, row, head * self.step(), 0);
                let scores: Vec<f64> = (first..=row)
                    .map(|p| {
                        let k = self.head(data, p, self.key() + kv * self.d, 1);
                        let dot: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let score = dot * factor * f64::from(SCALE);
                        self.cap
                            .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let mut total: f64 = scores.iter().map(|s| s.exp()).sum();
                if self.sinks {
                    total += f64::from(data.weights[3][head]).exp();
                }
                let mut sum = vec![0.0; self.d];
                for (p, score) in (first..=row).zip(&scores) {
                    let at = self.key() + (self.kv_heads + kv) * self.d;
                    for (sum, v) in sum.iter_mut().zip(self.head(data, p, at, 2)) {
                        *sum += score.exp() / total * v;
                    }
                }
                let gate = &data.qkv[row * self.stride() + head * self.step()..][self.d..];
                if self.gated {
                    for (sum, &gate) in sum.iter_mut().zip(gate) {
                        *sum /= 1.0 + f64::from(-gate).exp();
                    }
                }
                sum
            })
            .collect()
    }
}

/// What the plans of a case need.
struct Rig<'c> {
    case: &'c Case,
    device: &'c Device,
    io: Io,
    qkv: Floats,
    angles: Floats,
    out: Floats,
    cache: Arc<Cache>,
    plans: [Plan; 2],
}

impl<'c> Rig<'c> {
    fn new(case: &'c Case, device: &'c Device, data: &Data, tiles: Tiles) -> Self {
        let io = Io::new(device).unwrap();
        let mut vectors = Vectors::default();
        let at: Vec<u32> = data.weights.iter().map(|weights| vectors.add(weights)).collect();
        let vectors = vectors.upload(device).unwrap();
        let layout = CacheLayout { heads: case.kv_heads, head_dim: case.d, format: case.format };
        let cache = Arc::new(Cache::new(device, &io, &[layout], 300).unwrap());
        let new = |width| Floats::new(device, ROWS, width).unwrap();
        let (qkv, out) = (new(case.stride()), new(case.heads * case.d));
        let angles = new(2 * case.rotated.max(1));
        let chunks = Floats::new(device, 1, partials(case.heads, case.d)).unwrap();
        let norm =
            |i: usize| HeadNorm { weight: at[i], bias: None, eps: EPS, centred: case.centred };
        let attention = Attention {
            heads: case.heads,
            kept: 0,
            cache: layout,
            qkv: &qkv,
            kv: Some([case.key(), case.key() + case.kv_heads * case.d]),
            gated: case.gated,
            norms: [0, 1, 2].map(|i| case.norms.then(|| norm(i))),
            norms_last: case.norms_last,
            rope: (case.rotated > 0).then_some((case.rotated, 0, case.apart)),
            angles: &angles,
            scale: SCALE,
            cap: case.cap,
            window: case.window,
            sinks: case.sinks.then(|| at[3]),
            temperature: case.temperature,
            out: &out,
            partials: &chunks,
            vectors: &vectors,
        };
        let plans = [Class::One, Class::Many].map(|class| {
            let mut builder = Builder::new(device, &io, class).tiles(tiles);
            builder.attention(&attention).unwrap();
            builder.finish().unwrap()
        });
        Self { case, device, io, qkv, angles, out, cache, plans }
    }

    fn run(&self, data: &Data, start: usize, rows: usize) -> Vec<f32> {
        let (stride, pairs) = (self.case.stride(), 2 * self.case.rotated.max(1));
        self.device.write(&self.qkv, &data.qkv[start * stride..][..rows * stride], stride);
        self.device.write(&self.angles, &data.angles[start * pairs..][..rows * pairs], pairs);
        let runs = [RunAt { first: 0, rows, start, cache: &self.cache }];
        let pass = Pass { rows, wanted: &[], runs: &runs };
        let plan = &self.plans[usize::from(rows > 1)];
        let mut all = Vec::new();
        let result = (&self.out, rows, self.case.heads * self.case.d);
        let take = |_: usize, row: &[f32]| all.extend_from_slice(row);
        self.device.run(&self.io, &[plan], &pass, result, take).unwrap();
        all
    }
}

fn check(device: &Device, case: &Case, tiles: Tiles) {
    const PROMPT: usize = 150;
    let rows = PROMPT + 3;
    let data = case.data(rows);
    let rig = Rig::new(case, device, &data, tiles);
    let mut got = rig.run(&data, 0, PROMPT);
    (PROMPT..rows).for_each(|row| got.extend(rig.run(&data, row, 1)));
    let width = case.heads * case.d;
    let tolerance = match (case.format, tiles) {
        (KvFormat::F32, _) => 4e-5,
        (KvFormat::F16, Tiles::Single) => 4e-3,
        // Queries and shares are half floats, too.
        (KvFormat::F16, _) => 8e-3,
    };
    for row in [0, 1, 31, 32, 63, 64, 100, PROMPT - 1, PROMPT, PROMPT + 1, rows - 1] {
        for (i, want) in case.oracle(&data, row).into_iter().enumerate() {
            let got = f64::from(got[row * width + i]);
            let near = (got - want).abs() <= tolerance * (1.0 + want.abs());
            assert!(near, "row {row}, number {i}: {got}, not {want}: {tiles:?}, {case:?}");
        }
    }
}

#[test]
fn heads_of_all_sizes() {
    let Some(device) = device() else { return };
    for (d, heads, kv_heads) in [
        (32, 3, 1),
        (64, 8, 8),
        (80, 4, 2),
        (96, 16, 1),
        (128, 8, 2),
        (256, 6, 3),
        (512, 2, 1),
        (10, 5, 5),
    ] {
        check(&device, &Case { d, heads, kv_heads, ..PLAIN }, Tiles::Single);
    }
    check(&device, &Case { format: KvFormat::F16, ..PLAIN }, Tiles::Single);
}

#[test]
fn everything_that_a_model_does_to_heads() {
    let Some(device) = device() else { return };
    for case in [
        Case { window: Some(40), ..PLAIN },
        Case { window: Some(1), rotated: 16, ..PLAIN },
        Case { cap: Some(5.0), sinks: true, ..PLAIN },
        Case { gated: true, rotated: 32, ..PLAIN },
        Case { norms: true, rotated: 8, apart: false, ..PLAIN },
        Case { norms: true, norms_last: true, rotated: 32, ..PLAIN },
        Case { norms: true, centred: true, d: 80, sinks: true, ..PLAIN },
        Case { temperature: Some((0.3, 20)), rotated: 32, format: KvFormat::F16, ..PLAIN },
    ] {
        check(&device, &case, Tiles::Single);
    }
}

/// Prompts by cooperative matrices, or what those do in loops, which is for devices without.
#[test]
fn matrices_attend_as_well() {
    let Some(device) = device() else { return };
    assert!(device.info().half, "a device without half floats: name another one");
    const HALF: Case = Case { format: KvFormat::F16, ..PLAIN };
    for case in [
        Case { rotated: 32, ..HALF },
        Case { d: 32, heads: 3, kv_heads: 1, window: Some(40), ..HALF },
        Case { d: 80, norms: true, sinks: true, ..HALF },
        Case { d: 128, heads: 8, kv_heads: 1, cap: Some(5.0), gated: true, ..HALF },
        Case { d: 256, heads: 2, window: Some(1), ..HALF },
        // Not whole matrices wide, and too wide for shared memory.
        Case { d: 10, ..HALF },
        Case { d: 512, heads: 2, ..HALF },
    ] {
        check(&device, &case, Tiles::MatricesInLoops);
        if device.info().matrices {
            check(&device, &case, Tiles::Matrices);
        }
    }
}
