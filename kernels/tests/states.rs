//! Recurrent mixers: against naive references in `f64`, the same bits on every instruction set, and
//! the same bits however the tokens are cut.

mod common;

use common::{bits, on_every_tier, portable, refused};
use goldcrest_kernels::{Delta, GateOrder, HeadRowsMut, Kernels, Scan, TokenRows, state_len};

/// Numbers between -1 and 1.
fn numbers(seed: u32, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        (x >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// `f` of numbers of its own.
fn made(seed: u32, n: usize, f: impl Fn(f32) -> f32) -> Vec<f32> {
    numbers(seed, n).into_iter().map(f).collect()
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let near = (f64::from(g) - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(near, "{what}[{i}] = {g}, not {w}");
    }
}

/// Row `row` of `depth` and column `column` of a state, in its strips of sixteen.
fn place(depth: usize, row: usize, column: usize) -> usize {
    (column / 16 * depth + row) * 16 + column % 16
}

/// Pieces that `tokens` are cut into.
const CUTS: [usize; 4] = [1, 7, 64, usize::MAX];

/// Rows of `width` from `from` on.
fn rows(x: &[f32], from: usize, width: usize) -> TokenRows<'_> {
    TokenRows::new(&x[from * (width + GAP)..], width + GAP)
}

/// Tokens of one head, with gaps between the rows as in the matrix of a pass.
struct DeltaCase {
    tokens: usize,
    d_k: usize,
    d_v: usize,
    per_channel: bool,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
    state: Vec<f32>,
}

const GAP: usize = 5;

impl DeltaCase {
    fn new(tokens: usize, d_k: usize, d_v: usize, per_channel: bool) -> Self {
        let decays = if per_channel { d_k } else { 1 };
        let rows = |width: usize| tokens * (width + GAP);
        Self {
            tokens,
            d_k,
            d_v,
            per_channel,
            q: numbers(1, rows(d_k)),
            k: made(2, rows(d_k), |x| x / (d_k as f32).sqrt()),
            v: numbers(3, rows(d_v)),
            decay: made(4, rows(decays), |x| (x * 0.5 - 0.5).exp()),
            beta: made(5, rows(1), |x| 0.5 + 0.5 * x),
            state: numbers(6, state_len(d_k, d_v).unwrap()),
        }
    }

    fn decays(&self) -> usize {
        if self.per_channel { self.d_k } else { 1 }
    }

    /// What all tokens read, then the state after them, in pieces of `cut`.
    fn run(&self, kernels: &Kernels, cut: usize) -> Vec<f32> {
        let mut state = self.state.clone();
        let stride = self.d_v + GAP;
        let mut out = vec![0.0; self.tokens * stride];
        let mut from = 0;
        while from < self.tokens {
            let tokens = cut.min(self.tokens - from);
            let delta = Delta {
                tokens,
                d_k: self.d_k,
                d_v: self.d_v,
                q: rows(&self.q, from, self.d_k),
                k: rows(&self.k, from, self.d_k),
                v: rows(&self.v, from, self.d_v),
                decay: rows(&self.decay, from, self.decays()),
                per_channel: self.per_channel,
                beta: rows(&self.beta, from, 1),
            };
            let to = HeadRowsMut::new(&mut out[from * stride..], stride);
            kernels.delta_rule(&delta, &mut state, to);
            from += tokens;
        }
        out.extend(state);
        out
    }

    /// The same in double precision, by the definition.
    fn naive(&self) -> Vec<f64> {
        let (d_k, d_v) = (self.d_k, self.d_v);
        let row = |x: &[f32], width: usize, t: usize| -> Vec<f64> {
            x[t * (width + GAP)..][..width].iter().map(|&x| f64::from(x)).collect()
        };
        let mut state: Vec<f64> = self.state.iter().map(|&x| f64::from(x)).collect();
        let stride = d_v + GAP;
        let mut out = vec![0.0; self.tokens * stride];
        for t in 0..self.tokens {
            let (q, k, v) = (row(&self.q, d_k, t), row(&self.k, d_k, t), row(&self.v, d_v, t));
            let decay = row(&self.decay, self.decays(), t);
            let beta = row(&self.beta, 1, t)[0];
            for c in 0..d_v.next_multiple_of(16) {
                let at = |i: usize| place(d_k, i, c);
                for i in 0..d_k {
                    state[at(i)] *= decay[if self.per_channel { i } else { 0 }];
                }
                let under: f64 = (0..d_k).map(|i| k[i] * state[at(i)]).sum();
                let delta = beta * (v.get(c).copied().unwrap_or(0.0) - under);
                for i in 0..d_k {
                    state[at(i)] += k[i] * delta;
                }
                if c < d_v {
                    out[t * stride + c] = (0..d_k).map(|i| q[i] * state[at(i)]).sum();
                }
            }
        }
        out.extend(state);
        out
    }
}

#[test]
fn delta_rule() {
    for (tokens, d_k, d_v) in [(1, 16, 16), (70, 24, 40), (130, 128, 128), (9, 5, 3)] {
        for per_channel in [false, true] {
            let case = DeltaCase::new(tokens, d_k, d_v, per_channel);
            let what = format!("delta_rule {tokens} x {d_k} x {d_v}, per channel: {per_channel}");
            let whole = on_every_tier(&what, |k| case.run(k, usize::MAX));
            assert_near(&what, &whole, &case.naive(), 2e-5);
            for cut in CUTS {
                let cut = on_every_tier(&what, |k| case.run(k, cut));
                assert_eq!(bits(&cut), bits(&whole), "{what}");
            }
        }
    }
}

struct ScanCase {
    tokens: usize,
    d_state: usize,
    head_dim: usize,
    x: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    decay: Vec<f32>,
    step: Vec<f32>,
    state: Vec<f32>,
}

const SKIP: f32 = 0.75;

impl ScanCase {
    fn new(tokens: usize, d_state: usize, head_dim: usize) -> Self {
        let rows = |width: usize| tokens * (width + GAP);
        Self {
            tokens,
            d_state,
            head_dim,
            x: numbers(1, rows(head_dim)),
            b: numbers(2, rows(d_state)),
            c: numbers(3, rows(d_state)),
            decay: made(4, rows(1), |x| (x - 1.0).exp()),
            step: made(5, rows(1), |x| 0.1 + 0.05 * x),
            state: numbers(6, state_len(d_state, head_dim).unwrap()),
        }
    }

    fn run(&self, kernels: &Kernels, cut: usize) -> Vec<f32> {
        let mut state = self.state.clone();
        let stride = self.head_dim + GAP;
        let mut out = vec![0.0; self.tokens * stride];
        let mut from = 0;
        while from < self.tokens {
            let tokens = cut.min(self.tokens - from);
            let scan = Scan {
                tokens,
                d_state: self.d_state,
                head_dim: self.head_dim,
                x: rows(&self.x, from, self.head_dim),
                b: rows(&self.b, from, self.d_state),
                c: rows(&self.c, from, self.d_state),
                decay: rows(&self.decay, from, 1),
                step: rows(&self.step, from, 1),
                skip: SKIP,
            };
            kernels.scan(&scan, &mut state, HeadRowsMut::new(&mut out[from * stride..], stride));
            from += tokens;
        }
        out.extend(state);
        out
    }

    fn naive(&self) -> Vec<f64> {
        let (n, p) = (self.d_state, self.head_dim);
        let at = |x: &[f32], width: usize, t: usize, i: usize| f64::from(x[t * (width + GAP) + i]);
        let mut state: Vec<f64> = self.state.iter().map(|&x| f64::from(x)).collect();
        let stride = p + GAP;
        let mut out = vec![0.0; self.tokens * stride];
        for t in 0..self.tokens {
            let (decay, step) = (at(&self.decay, 1, t, 0), at(&self.step, 1, t, 0));
            for column in 0..p.next_multiple_of(16) {
                let x = if column < p { at(&self.x, p, t, column) } else { 0.0 };
                let mut read = f64::from(SKIP) * x;
                for i in 0..n {
                    let h = &mut state[place(n, i, column)];
                    *h = *h * decay + step * x * at(&self.b, n, t, i);
                    read += *h * at(&self.c, n, t, i);
                }
                if column < p {
                    out[t * stride + column] = read;
                }
            }
        }
        out.extend(state);
        out
    }
}

#[test]
fn state_space_scan() {
    for (tokens, d_state, head_dim) in [(1, 16, 16), (70, 24, 40), (130, 128, 64), (9, 5, 3)] {
        let case = ScanCase::new(tokens, d_state, head_dim);
        let what = format!("scan {tokens} x {d_state} x {head_dim}");
        let whole = on_every_tier(&what, |k| case.run(k, usize::MAX));
        assert_near(&what, &whole, &case.naive(), 2e-5);
        for cut in CUTS {
            let cut = on_every_tier(&what, |k| case.run(k, cut));
            assert_eq!(bits(&cut), bits(&whole), "{what}");
        }
    }
}

#[test]
fn short_convolution() {
    for (taps, n) in [(1, 16), (3, 33), (4, 128), (4, 7)] {
        let x = numbers(1, taps * n);
        let w = numbers(2, taps * n);
        let b = numbers(3, n);
        let window: Vec<_> = x.chunks_exact(n).collect();
        let weights: Vec<_> = w.chunks_exact(n).collect();
        for (bias, silu) in [(None, false), (None, true), (Some(&b[..]), false), (Some(&b), true)] {
            let what = format!("short_conv of {taps} taps, bias {}, silu {silu}", bias.is_some());
            let got = on_every_tier(&what, |k| {
                let mut out = vec![f32::NAN; n];
                k.short_conv(&window, &weights, bias, silu, &mut out);
                out
            });
            let want = |c: usize| {
                let products = (0..taps).map(|j| f64::from(x[j * n + c]) * f64::from(w[j * n + c]));
                let sum = products.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[c]));
                if silu { sum / (1.0 + (-sum).exp()) } else { sum }
            };
            assert_near(&what, &got, &(0..n).map(want).collect::<Vec<_>>(), 1e-6);
        }
    }
}

#[test]
fn norms_beside_a_recurrence() {
    for n in [1, 16, 24, 128, 200] {
        let x = made(1, 3 * n, |x| 4.0 * x);
        let got = on_every_tier("l2_norm", |k| {
            let mut x = x.clone();
            k.l2_norm(&mut x, n, 1e-6, 0.25);
            x
        });
        let scale = |row: &[f32]| {
            let squares = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
            0.25 / (squares + 1e-6).sqrt()
        };
        let rows = x.chunks_exact(n);
        let want = rows.flat_map(|row| row.iter().map(move |&x| f64::from(x) * scale(row)));
        assert_near("l2_norm", &got, &want.collect::<Vec<_>>(), 1e-6);

        let (x, gate) = (&x[..n], made(2, n, |x| 6.0 * x));
        let weight = numbers(3, n);
        let silu = |x: f32| f64::from(x) / (1.0 + (-f64::from(x)).exp());
        for order in [GateOrder::AfterNorm, GateOrder::BeforeNorm] {
            let got = on_every_tier("gated_norm", |k| {
                let mut x = x.to_vec();
                k.gated_norm(&mut x, &gate, &weight, 1e-5, order);
                x
            });
            let before = order == GateOrder::BeforeNorm;
            let gated = |i: usize, here: bool| if here { silu(gate[i]) } else { 1.0 };
            let inner: Vec<_> = (0..n).map(|i| f64::from(x[i]) * gated(i, before)).collect();
            let mean = inner.iter().map(|x| x * x).sum::<f64>() / n as f64;
            let outer = |i: usize| {
                inner[i] / (mean + 1e-5).sqrt() * f64::from(weight[i]) * gated(i, !before)
            };
            assert_near("gated_norm", &got, &(0..n).map(outer).collect::<Vec<_>>(), 3e-6);
        }
    }
}

#[test]
fn steps_in_time() {
    let n = 37;
    let (x, bias) = (made(1, n, |x| 9.0 * x), numbers(2, n));
    let a = made(3, n, |x| -1.1 + x);
    let limits = [0.001, 3.0];
    let got = on_every_tier("time_steps", |k| {
        let (mut steps, mut decays) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        k.time_steps(&x, &bias, &a, limits, &mut steps, &mut decays);
        [steps, decays].concat()
    });
    let step = |i: usize| {
        let step = (f64::from(x[i]) + f64::from(bias[i])).exp().ln_1p();
        step.clamp(limits[0].into(), limits[1].into())
    };
    let steps = (0..n).map(step);
    let decays = (0..n).map(|i| (f64::from(a[i]) * step(i)).exp());
    assert_near("time_steps", &got, &steps.chain(decays).collect::<Vec<_>>(), 2e-6);
}

#[test]
fn lengths_that_do_not_fit() {
    let case = DeltaCase::new(3, 8, 16, false);
    let delta = |tokens, d_k, d_v| Delta {
        tokens,
        d_k,
        d_v,
        q: TokenRows::new(&case.q, 8 + GAP),
        k: TokenRows::new(&case.k, 8 + GAP),
        v: TokenRows::new(&case.v, 16 + GAP),
        decay: TokenRows::new(&case.decay, 1 + GAP),
        per_channel: false,
        beta: TokenRows::new(&case.beta, 1 + GAP),
    };
    let (mut state, mut out) = (vec![0.0; 8 * 16], vec![0.0; 64]);
    let mut run = |delta: Delta<'_>| {
        portable().delta_rule(&delta, &mut state, HeadRowsMut::new(&mut out, 16));
    };
    refused("a state of", || run(delta(3, 9, 16)));
    refused("a state of", || run(delta(3, usize::MAX, 16)));
    refused("a state of", || run(delta(3, 8, usize::MAX)));
    refused("rows of 8", || run(delta(4, 8, 16)));
    refused("rows of 8", || run(delta(usize::MAX, 8, 16)));
    refused("rows of x", || portable().l2_norm(&mut [0.0; 3], 2, 0.0, 1.0));
    refused("taps of", || portable().short_conv(&[], &[], None, false, &mut [0.0]));
    let short = [0.0; 3];
    refused("channels of", || {
        portable().short_conv(&[&short], &[&short], None, false, &mut [0.0; 4]);
    });
    let scan = |tokens, d_state| Scan {
        tokens,
        d_state,
        head_dim: 16,
        x: TokenRows::new(&case.v, 16),
        b: TokenRows::new(&case.q, 8),
        c: TokenRows::new(&case.k, 8),
        decay: TokenRows::new(&case.decay, 1),
        step: TokenRows::new(&case.beta, 1),
        skip: 0.0,
    };
    let (mut state, mut out) = (vec![0.0; 8 * 16], vec![0.0; 40]);
    let mut run = |scan: Scan<'_>| {
        portable().scan(&scan, &mut state, HeadRowsMut::new(&mut out, 16));
    };
    refused("a state of", || run(scan(1, 9)));
    refused("rows of", || run(scan(usize::MAX, 8)));
    refused("room for", || run(scan(3, 8)));
}
