//! The KV cache and attention over it: against a naive reference in `f64`, and bit by bit the same
//! on every instruction set of this machine, however the work is cut.

mod common;

use common::{bits, on_every_tier, portable};
use goldcrest_kernels::{
    Attend, AttendOut, CHUNK, HeadRowsMut, Isa, Kernels, KvLayout, KvType, Span, partial_len,
    scratch_len,
};
use proptest::prelude::*;

const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

/// Both regions of a cache that held something else.
fn regions(layout: KvLayout, fill: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![fill; layout.k_bytes()], vec![fill; layout.v_bytes()])
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Stores every position in a scattered order, each with awkward numbers, and reads all back.
fn check_cache(ty: KvType, head_dim: usize, positions: usize) {
    let layout = KvLayout::new(ty, head_dim, positions);
    assert!(layout.k_bytes().is_multiple_of(64) && layout.v_bytes().is_multiple_of(64));
    let awkward = [-1.5f32, 3e-6, -4e-8, 0.0, -0.0, 700.25, 1e-3, -0.333];
    let row = |p: usize, which: usize| -> Vec<f32> {
        let value = |d| awkward[(p * 7 + d * 3 + which) % awkward.len()];
        (0..head_dim).map(|d| value(d) * (1.0 + (p + d) as f32 * 0.01)).collect()
    };
    let step = (1..).map(|i| 2 * i + 5).find(|i| gcd(*i, positions) == 1).unwrap();
    let fill = |kernels: &Kernels| {
        let (mut k, mut v) = regions(layout, 0xa5);
        for i in 0..positions {
            let p = i * step % positions;
            kernels.kv_store(layout, &mut k, &mut v, p, &row(p, 0), &row(p, 1));
        }
        (k, v)
    };
    let (k, v) = fill(portable());
    for isa in Isa::supported() {
        let kernels = Kernels::for_isa(isa).unwrap();
        assert!(fill(kernels) == (k.clone(), v.clone()), "{isa}-kv_store {layout:?}");
    }
    for p in 0..positions {
        let got = on_every_tier("kv_load", |kernels| load(kernels, layout, &k, &v, p));
        for (got, which) in got.chunks_exact(head_dim).zip([0, 1]) {
            check_row(ty, got, &row(p, which));
        }
    }
}

/// A key, then its value.
fn load(kernels: &Kernels, layout: KvLayout, k: &[u8], v: &[u8], p: usize) -> Vec<f32> {
    let mut row = vec![f32::NAN; 2 * layout.head_dim()];
    let (k_row, v_row) = row.split_at_mut(layout.head_dim());
    kernels.kv_load(layout, k, v, p, k_row, v_row);
    row
}

fn check_row(ty: KvType, got: &[f32], want: &[f32]) {
    for (got, want) in got.chunks(32).zip(want.chunks(32)) {
        let most = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (g, w) in got.iter().zip(want) {
            match ty {
                KvType::F32 => assert_eq!(g.to_bits(), w.to_bits()),
                KvType::F16 => assert_eq!(*g, half::f16::from_f32(*w).to_f32()),
                KvType::Q8_0 => {
                    // Half a code, and what the scale loses where it is a subnormal half float.
                    let tolerance = most * 0.5 / 127.0 * 1.01 + 127.0 * 2.0f32.powi(-25);
                    assert!((g - w).abs() <= tolerance, "{g} for {w}, most {most}");
                }
            }
        }
    }
}

/// A fifth of proptest's default, or of what `PROPTEST_CASES` says.
fn fewer_cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.div_ceil(5), ..default }
}

proptest! {
    #![proptest_config(fewer_cases())]
    #[test]
    fn the_cache_reads_back(half in 1usize..=128, positions in 1usize..50, ty in 0usize..3) {
        check_cache(TYPES[ty], 2 * half, positions);
    }
}

/// What is not a number of ordinary size.
#[test]
fn the_cache_holds_extremes() {
    let row = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40, -1e-40, 1e6, -1e6, 0.0];
    for ty in TYPES {
        let layout = KvLayout::new(ty, 8, 20);
        let stored = |k_row: &[f32], v_row: &[f32], from: usize| {
            on_every_tier("kv_load", |kernels| {
                let (mut k, mut v) = regions(layout, 0);
                kernels.kv_store(layout, &mut k, &mut v, 17, &row, &row);
                kernels.kv_store(layout, &mut k, &mut v, 17, k_row, v_row);
                load(kernels, layout, &k, &v, from)
            })
        };
        let got = stored(&row, &row, 17);
        let (k_row, v_row) = got.split_at(8);
        assert_eq!(bits(k_row), bits(v_row));
        let want: Vec<f32> = row
            .iter()
            .map(|&w| match ty {
                KvType::F32 => w,
                KvType::F16 => half::f16::from_f32(w).to_f32(),
                KvType::Q8_0 => f32::NAN,
            })
            .collect();
        assert_eq!(bits(k_row), bits(&want), "{ty:?}");
        assert_eq!(stored(&[0.0; 8], &row, 17)[..8], [0.0; 8]);
        assert_eq!(stored(&row, &row, 16), [0.0; 16], "a neighbour was written");
    }
}

#[test]
fn bytes_of_a_position() {
    let per_position = |ty| KvLayout::new(ty, 128, 4096).k_bytes() / 4096;
    assert_eq!(TYPES.map(per_position), [512, 256, 136]);
}

/// A head's keys and values, queries and what they see.
#[derive(Clone, Debug)]
struct Case {
    layout: KvLayout,
    k: Vec<u8>,
    v: Vec<u8>,
    q: Vec<f32>,
    group: usize,
    spans: Vec<Span>,
    softcap: Option<f32>,
}

fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
}

impl Case {
    /// Random contents for `positions` stored positions; beyond them, in the last panel, the cache
    /// is full of NaN.
    fn new(ty: KvType, head_dim: usize, group: usize, positions: usize, spans: Vec<Span>) -> Self {
        let layout = KvLayout::new(ty, head_dim, positions.next_multiple_of(16));
        let (mut k, mut v) = regions(layout, 0xff);
        let mut seed = (head_dim * 31 + positions * 7 + group) as u64;
        let mut row = |n: usize| (0..n).map(|_| noise(&mut seed)).collect::<Vec<_>>();
        for p in 0..positions {
            portable().kv_store(layout, &mut k, &mut v, p, &row(head_dim), &row(head_dim));
        }
        let q = row(spans.len() * group * head_dim);
        Self { layout, k, v, q, group, spans, softcap: None }
    }

    fn width(&self) -> usize {
        self.group * self.layout.head_dim()
    }

    fn args(&self) -> Attend<'_> {
        Attend {
            layout: self.layout,
            k: &self.k,
            v: &self.v,
            q: &self.q,
            q_stride: self.width(),
            group: self.group,
            spans: &self.spans,
            scale: 1.0 / (self.layout.head_dim() as f32).sqrt(),
            softcap: self.softcap,
        }
    }

    /// Attention at once.
    fn run(&self, kernels: &Kernels) -> Vec<f32> {
        attend(kernels, &self.args())
    }

    /// Every chunk by itself, then the fold.
    fn run_chunks(&self, kernels: &Kernels) -> Vec<f32> {
        let head_dim = self.layout.head_dim();
        let (rows, partial) = (self.group * self.spans.len(), partial_len(head_dim));
        let chunks = self.layout.positions().div_ceil(CHUNK);
        let mut partials = vec![f32::NAN; chunks * rows * partial];
        let mut scratch = vec![f32::NAN; scratch_len(head_dim)];
        for (chunk, partials) in partials.chunks_exact_mut(rows * partial).enumerate() {
            let out = AttendOut::Chunk { chunk, partials };
            kernels.attend(&self.args(), out, &mut scratch);
        }
        let mut out = vec![f32::NAN; self.spans.len() * self.width()];
        let to = HeadRowsMut::new(&mut out, self.width());
        let positions = self.spans.len();
        kernels.attend_merge(head_dim, self.group, positions, chunks, &partials, to, &mut scratch);
        out
    }

    /// One query position at a time, one head at a time.
    fn run_alone(&self, kernels: &Kernels) -> Vec<f32> {
        let head_dim = self.layout.head_dim();
        let mut all = Vec::new();
        for (i, span) in self.spans.iter().enumerate() {
            for head in 0..self.group {
                let mut a = self.args();
                a.q = &self.q[i * self.width() + head * head_dim..][..head_dim];
                a.spans = std::slice::from_ref(span);
                a.group = 1;
                a.q_stride = head_dim;
                all.extend(attend(kernels, &a));
            }
        }
        all
    }

    /// Softmax attention in double precision, over what the cache holds.
    fn oracle(&self) -> Vec<f64> {
        let (d, a) = (self.layout.head_dim(), self.args());
        let seen = self.spans.iter().map(|span| span.end).max().unwrap_or(0);
        let cache: Vec<Vec<f32>> =
            (0..seen).map(|p| load(portable(), self.layout, &self.k, &self.v, p)).collect();
        let mut all = Vec::new();
        for row in 0..self.group * self.spans.len() {
            let q = &self.q[row * d..][..d];
            let span = self.spans[row / self.group];
            let (mut sums, mut total) = (vec![0.0f64; d], 0.0);
            for (k, v) in cache[span.start..span.end].iter().map(|row| row.split_at(d)) {
                let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let mut score = dot * f64::from(a.scale);
                if let Some(cap) = a.softcap {
                    score = f64::from(cap) * (score / f64::from(cap)).tanh();
                }
                // Scores are a few tens at most: no overflow in double precision.
                let weight = score.exp();
                total += weight;
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum += weight * f64::from(*v);
                }
            }
            all.extend(sums.iter().map(|s| if total == 0.0 { 0.0 } else { s / total }));
        }
        all
    }

    /// Everything that must hold; gives the rows.
    fn check(&self) -> Vec<f32> {
        let got = on_every_tier("attend", |kernels| self.run(kernels));
        let chunks = on_every_tier("attend_merge", |kernels| self.run_chunks(kernels));
        assert_eq!(bits(&got), bits(&chunks), "chunks and fold");
        let alone = on_every_tier("attend", |kernels| self.run_alone(kernels));
        assert_eq!(bits(&got), bits(&alone), "rows alone");
        let oracle = self.oracle();
        let near = |what: &str, got: &[f32]| {
            for (i, (g, w)) in got.iter().zip(&oracle).enumerate() {
                let error = (f64::from(*g) - w).abs();
                assert!(error < 2e-5, "{what} {i}: {g}, not {w}: {:?}", self.spans);
            }
        };
        near("unfused", &got);
        for isa in Isa::supported() {
            let kernels = Kernels::for_isa(isa).unwrap();
            let fused = self.run(kernels);
            near(isa.name(), &fused);
            assert_eq!(bits(&fused), bits(&self.run_chunks(kernels)), "{isa}: chunks and fold");
            assert_eq!(bits(&fused), bits(&self.run_alone(kernels)), "{isa}: rows alone");
        }
        got
    }
}

fn attend(kernels: &Kernels, a: &Attend<'_>) -> Vec<f32> {
    // Neither what the buffers held nor the elements between rows matter.
    let width = a.group * a.layout.head_dim();
    let stride = width + 3;
    let mut out = vec![f32::NAN; a.spans.len() * stride];
    let mut scratch = vec![f32::NAN; scratch_len(a.layout.head_dim())];
    kernels.attend(a, AttendOut::Rows(HeadRowsMut::new(&mut out, stride)), &mut scratch);
    let mut rows = Vec::new();
    for row in out.chunks_exact(stride) {
        rows.extend_from_slice(&row[..width]);
        assert!(row[width..].iter().all(|v| v.is_nan()), "written between rows");
    }
    rows
}

/// Causal spans of the last `n` of `positions` positions, with a sliding window if not 0.
fn causal(positions: usize, n: usize, window: usize) -> Vec<Span> {
    (positions - n + 1..=positions)
        .map(|end| Span { start: if window > 0 { end.saturating_sub(window) } else { 0 }, end })
        .collect()
}

#[test]
fn sizes_at_the_borders_of_panels_and_chunks() {
    for ty in TYPES {
        for (head_dim, group, positions, queries, window) in [
            (8, 1, 1, 1, 0),
            (16, 7, 255, 1, 0),
            (32, 4, 256, 3, 0),
            (64, 3, 257, 2, 0),
            (80, 2, 513, 5, 0),
            (96, 1, 530, 1, 0),
            (128, 8, 300, 1, 0),
            (64, 4, 300, 19, 40),
            (256, 16, 40, 2, 8),
            (2, 5, 17, 17, 3),
            (34, 1, 600, 9, 270),
            (36, 15, 290, 1, 0),
        ] {
            let spans = causal(positions, queries, window);
            let mut case = Case::new(ty, head_dim, group, positions, spans);
            case.check();
            case.softcap = Some(2.5);
            case.check();
        }
    }
}

#[test]
fn what_is_not_seen_does_not_matter() {
    for ty in TYPES {
        // Position 20 holds infinities, and all but the last two rows do not see it.
        let mut case = Case::new(ty, 32, 1, 22, causal(22, 9, 0));
        let clean = on_every_tier("attend", |kernels| case.run(kernels));
        let bad = [f32::INFINITY; 32];
        portable().kv_store(case.layout, &mut case.k, &mut case.v, 20, &bad, &bad);
        let got = on_every_tier("attend", |kernels| case.run(kernels));
        assert_eq!(bits(&clean)[..7 * 32], bits(&got)[..7 * 32]);
        assert!(got[7 * 32..].iter().all(|v| !v.is_finite()));
    }
}

#[test]
fn rows_that_see_nothing_are_zero() {
    let spans = vec![
        Span { start: 0, end: 0 },
        Span { start: 0, end: 20 },
        Span { start: 300, end: 300 },
        Span { start: 299, end: 300 },
    ];
    let got = Case::new(KvType::F16, 16, 2, 300, spans).check();
    assert!(got[..32].iter().chain(&got[64..96]).all(|v| v.to_bits() == 0));
}

proptest! {
    #![proptest_config(fewer_cases())]
    #[test]
    fn attention_is_near_double_precision(
        ty in 0usize..3,
        half in 1usize..=128,
        group in 1usize..=16,
        positions in 1usize..560,
        ends in proptest::collection::vec((0usize..=1000, 0usize..=1000), 1..6),
    ) {
        let spans = ends.into_iter().map(|(a, b)| (a * positions / 1000, b * positions / 1000));
        let spans = spans.map(|(a, b)| Span { start: a.min(b), end: a.max(b) }).collect();
        Case::new(TYPES[ty], 2 * half, group, positions, spans).check();
    }
}
