//! A cache with known contents, and what attention over it must give: in one call, chunk by chunk,
//! row by row, and in double precision.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::ops::Range;

use goldcrest_kernels::{
    Attend, AttendOut, CHUNK, HeadRowsMut, Isa, Kernels, KvLayout, KvType, Merge, Span,
    partial_len, scratch_len,
};
use proptest::prelude::ProptestConfig;

use crate::common::{bits, on_every_tier, portable};

pub const TYPES: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

/// Both regions of a cache that held something else.
pub fn regions(layout: KvLayout, fill: u8) -> (Vec<u8>, Vec<u8>) {
    (vec![fill; layout.k_bytes()], vec![fill; layout.v_bytes()])
}

/// A key, then its value.
pub fn load(kernels: &Kernels, layout: KvLayout, k: &[u8], v: &[u8], p: usize) -> Vec<f32> {
    let mut row = vec![f32::NAN; layout.head_dim() + layout.value_dim()];
    let (k_row, v_row) = row.split_at_mut(layout.head_dim());
    kernels.kv_load(layout, k, v, p, k_row, v_row);
    row
}

/// A head's keys and values, queries and what they see.
#[derive(Clone, Debug)]
pub struct Case {
    pub layout: KvLayout,
    pub k: Vec<u8>,
    pub v: Vec<u8>,
    pub q: Vec<f32>,
    pub group: usize,
    pub spans: Vec<Span>,
    pub softcap: Option<f32>,
    pub sinks: Option<Vec<f32>>,
}

fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
}

impl Case {
    /// A plain cache of `positions` stored positions.
    pub fn new(
        ty: KvType,
        head_dim: usize,
        group: usize,
        positions: usize,
        spans: Vec<Span>,
    ) -> Self {
        let layout = KvLayout::new(ty, head_dim, positions.next_multiple_of(16));
        Self::within(layout, group, 0..positions, spans)
    }

    /// Random contents for `positions`, stored in order, whatever the layout; the cache was full of
    /// NaN.
    pub fn within(
        layout: KvLayout,
        group: usize,
        positions: Range<usize>,
        spans: Vec<Span>,
    ) -> Self {
        let (head_dim, value_dim) = (layout.head_dim(), layout.value_dim());
        let (mut k, mut v) = regions(layout, 0xff);
        let mut seed = (head_dim * 31 + positions.end * 7 + group) as u64;
        let mut row = |n: usize| (0..n).map(|_| noise(&mut seed)).collect::<Vec<_>>();
        for p in positions {
            portable().kv_store(layout, &mut k, &mut v, p, &row(head_dim), &row(value_dim));
        }
        let q = row(spans.len() * group * head_dim);
        Self { layout, k, v, q, group, spans, softcap: None, sinks: None }
    }

    /// Elements of a position's queries.
    fn width(&self) -> usize {
        self.group * self.layout.head_dim()
    }

    /// A sink for each head: of ordinary size, below all scores, above all.
    pub fn with_sinks(mut self) -> Self {
        let sinks = [0.5, -200.0, 150.0, 3.0, -1.0];
        self.sinks = Some((0..self.group).map(|head| sinks[head % sinks.len()]).collect());
        self
    }

    pub fn args(&self) -> Attend<'_> {
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
            sinks: self.sinks.as_deref(),
        }
    }

    /// Attention at once.
    pub fn run(&self, kernels: &Kernels) -> Vec<f32> {
        attend(kernels, &self.args())
    }

    /// What all queries together see.
    pub fn seen(&self) -> Span {
        let spans = || self.spans.iter().filter(|span| span.start < span.end);
        let start = spans().map(|span| span.start).min().unwrap_or(0);
        Span { start, end: spans().map(|span| span.end).max().unwrap_or(0) }
    }

    /// Every chunk by itself, then the fold.
    pub fn run_chunks(&self, kernels: &Kernels) -> Vec<f32> {
        let (group, positions) = (self.group, self.spans.len());
        let value_dim = self.layout.value_dim();
        let (rows, partial) = (group * positions, partial_len(value_dim));
        let chunks = self.layout.positions().max(self.seen().end).div_ceil(CHUNK);
        let mut partials = vec![f32::NAN; chunks * rows * partial];
        let mut scratch = vec![f32::NAN; scratch_len(self.layout.head_dim(), value_dim)];
        for (chunk, partials) in partials.chunks_exact_mut(rows * partial).enumerate() {
            let out = AttendOut::Chunk { chunk, partials };
            kernels.attend(&self.args(), out, &mut scratch);
        }
        let mut out = vec![f32::NAN; rows * value_dim];
        let to = HeadRowsMut::new(&mut out, group * value_dim);
        let sinks = self.sinks.as_deref();
        let partials = &partials[..];
        let merge = Merge { value_dim, group, positions, chunks, partials, sinks };
        kernels.attend_merge(&merge, to, &mut scratch);
        out
    }

    /// One query position at a time, one head at a time.
    pub fn run_alone(&self, kernels: &Kernels) -> Vec<f32> {
        let head_dim = self.layout.head_dim();
        let mut all = Vec::new();
        for (i, span) in self.spans.iter().enumerate() {
            for head in 0..self.group {
                let mut a = self.args();
                a.q = &self.q[i * self.width() + head * head_dim..][..head_dim];
                a.spans = std::slice::from_ref(span);
                a.group = 1;
                a.q_stride = head_dim;
                a.sinks = a.sinks.map(|sinks| &sinks[head..=head]);
                all.extend(attend(kernels, &a));
            }
        }
        all
    }

    /// Softmax attention in double precision, over what the cache holds.
    pub fn oracle(&self) -> Vec<f64> {
        let (d, value_dim, a) = (self.layout.head_dim(), self.layout.value_dim(), self.args());
        let seen = self.seen();
        let row = |p| load(portable(), self.layout, &self.k, &self.v, p);
        let cache: Vec<Vec<f32>> = (seen.start..seen.end).map(row).collect();
        let mut all = Vec::new();
        for row in 0..self.group * self.spans.len() {
            let q = &self.q[row * d..][..d];
            let span = self.spans[row / self.group];
            let (mut sums, mut total) = (vec![0.0f64; value_dim], 0.0);
            let rows = (span.start..span.end).map(|p| cache[p - seen.start].split_at(d));
            for (k, v) in rows {
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
            // A row that sees nothing is zero, sink or not.
            if let Some(sinks) = a.sinks.filter(|_| total > 0.0) {
                total += f64::from(sinks[row % self.group]).exp();
            }
            all.extend(sums.iter().map(|s| if total == 0.0 { 0.0 } else { s / total }));
        }
        all
    }

    /// Everything that must hold; gives the rows.
    pub fn check(&self) -> Vec<f32> {
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

pub fn attend(kernels: &Kernels, a: &Attend<'_>) -> Vec<f32> {
    // Neither what the buffers held nor the elements between rows matter.
    let width = a.group * a.layout.value_dim();
    let stride = width + 3;
    let mut out = vec![f32::NAN; a.spans.len() * stride];
    let mut scratch = vec![f32::NAN; scratch_len(a.layout.head_dim(), a.layout.value_dim())];
    kernels.attend(a, AttendOut::Rows(HeadRowsMut::new(&mut out, stride)), &mut scratch);
    let mut rows = Vec::new();
    for row in out.chunks_exact(stride) {
        rows.extend_from_slice(&row[..width]);
        assert!(row[width..].iter().all(|v| v.is_nan()), "written between rows");
    }
    rows
}

/// Causal spans of the last `n` of `positions` positions, with a sliding window if not 0.
pub fn causal(positions: usize, n: usize, window: usize) -> Vec<Span> {
    (positions - n + 1..=positions)
        .map(|end| Span { start: if window > 0 { end.saturating_sub(window) } else { 0 }, end })
        .collect()
}

/// A fifth of proptest's default, or of what `PROPTEST_CASES` says.
pub fn fewer_cases() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.div_ceil(5), ..default }
}
