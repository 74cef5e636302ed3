//! The ops beside the products: on the portable tier against naive references in `f64`, and bit by
//! bit the same on every instruction set of this machine.

mod common;

use common::{bits, on_every_tier, portable};
use goldcrest_kernels::{Activation, Isa, Kernels, Nonlinearity, Place, RopeStyle};
use proptest::prelude::*;

#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let near = (f64::from(g) - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(near, "{what}[{i}] = {g}, not {w}");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// `f` of a copy of `x`.
fn changed(x: &[f32], f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut x = x.to_vec();
    f(&mut x);
    x
}

/// `f` into memory that held something else.
fn written(n: usize, f: impl FnOnce(&mut [f32])) -> Vec<f32> {
    changed(&vec![f32::NAN; n], f)
}

/// As [`on_every_tier`], once it is known that fused kernels give the same bits, too.
fn in_both_modes(what: &str, f: impl Fn(&Kernels) -> Vec<f32>) -> Vec<f32> {
    let want = on_every_tier(what, &f);
    for isa in Isa::supported() {
        let got = f(Kernels::for_isa(isa).unwrap());
        assert_eq!(bits(&got), bits(&want), "{isa}-{what}");
    }
    want
}

fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // A series whose terms all have one sign: nothing cancels.
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    sum * (-x * x).exp() * 2.0 / std::f64::consts::PI.sqrt()
}

type Function = fn(f64) -> f64;

const NONLINEARITIES: [(Nonlinearity, Function); 5] = [
    (Nonlinearity::Silu, |v| v / (1.0 + (-v).exp())),
    (Nonlinearity::GeluTanh, |v| {
        let c = (2.0 / std::f64::consts::PI).sqrt();
        0.5 * v * (1.0 + (c * (v + 0.044715 * v * v * v)).tanh())
    }),
    (Nonlinearity::GeluErf, |v| 0.5 * v * (1.0 + erf(v * std::f64::consts::FRAC_1_SQRT_2))),
    (Nonlinearity::Sigmoid, |v| 1.0 / (1.0 + (-v).exp())),
    (Nonlinearity::ReluSquared, |v| v.max(0.0).powi(2)),
];

/// `rows` rows of `weight.len()`, by the definitions.
fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let norm = |row: &[f64]| {
        let mean_square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scale = 1.0 / (mean_square + eps).sqrt();
        row.iter().zip(weight).map(|(v, w)| v * scale * w).collect::<Vec<_>>()
    };
    x.chunks_exact(weight.len()).flat_map(norm).collect()
}

fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let norm = |row: &[f64]| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let scale = 1.0 / (variance + eps).sqrt();
        let scaled = row.iter().zip(weight).map(|(v, w)| (v - mean) * scale * w);
        scaled.zip(bias).map(|(v, b)| v + b).collect::<Vec<_>>()
    };
    x.chunks_exact(weight.len()).flat_map(norm).collect()
}

/// Every op on rows `x` and `y` of the same length; `near` where the numbers are ordinary.
fn check(x: &[f32], y: &[f32], near: bool) {
    let n = x.len();
    let (wx, wy) = (wide(x), wide(y));
    let reference = |what: &str, got: &[f32], want: &[f64], tolerance| {
        if near {
            assert_near(what, got, want, tolerance);
        }
    };

    let rows = [x, y, x].concat();
    let norm = on_every_tier("rms_norm", |k| written(3 * n, |out| k.rms_norm(&rows, y, 1e-5, out)));
    reference("rms_norm", &norm, &rms_norm(&wide(&rows), &wy, 1e-5), 2e-6);
    let in_place =
        on_every_tier("rms_norm_in_place", |k| changed(&rows, |x| k.rms_norm_in_place(x, y, 1e-5)));
    assert_eq!(bits(&norm), bits(&in_place), "rms_norm in place");

    let norm = on_every_tier("layer_norm", |k| {
        written(3 * n, |out| k.layer_norm(&rows, y, Some(x), 1e-2, out))
    });
    reference("layer_norm", &norm, &layer_norm(&wide(&rows), &wy, &wx, 1e-2), 1e-5);
    let norm = on_every_tier("layer_norm without bias", |k| {
        written(3 * n, |out| k.layer_norm(&rows, y, None, 1e-2, out))
    });
    let no_bias = layer_norm(&wide(&rows), &wy, &vec![0.0; n], 1e-2);
    reference("layer_norm without bias", &norm, &no_bias, 1e-5);

    let mut pairs = vec![0.0; 2 * n.next_multiple_of(16)];
    for i in 0..n {
        pairs[i / 16 * 32 + i % 16] = x[i];
        pairs[i / 16 * 32 + 16 + i % 16] = y[i];
    }
    for (f, of) in NONLINEARITIES {
        let name = format!("{f:?}");
        let got = on_every_tier(&name, |k| written(n, |out| k.gated(f, &pairs, out)));
        let want: Vec<f64> = wx.iter().zip(&wy).map(|(&v, w)| of(v) * w).collect();
        reference(&name, &got, &want, 5e-6);
        let got = on_every_tier(&name, |k| changed(x, |x| k.activate(f, x)));
        let want: Vec<f64> = wx.iter().map(|&v| of(v)).collect();
        reference(&name, &got, &want, 5e-6);
    }

    for limit in [7.0f32, 0.75] {
        let got = on_every_tier("gated_clamped", |k| {
            written(n, |out| k.gated_clamped(limit, &pairs, out))
        });
        let most = f64::from(limit);
        let clamped = |(&gate, &up): (&f64, &f64)| {
            let gate = gate.min(most);
            gate / (1.0 + (-1.702 * gate).exp()) * (up.clamp(-most, most) + 1.0)
        };
        let want: Vec<f64> = wx.iter().zip(&wy).map(clamped).collect();
        reference("gated_clamped", &got, &want, 5e-6);
    }

    let got = on_every_tier("softcap", |k| changed(x, |x| k.softcap(5.0, x)));
    let want: Vec<f64> = wx.iter().map(|v| 5.0 * (v / 5.0).tanh()).collect();
    reference("softcap", &got, &want, 2e-6);

    let got = on_every_tier("softmax", |k| changed(x, |x| k.softmax(x)));
    let total: f64 = wx.iter().map(|v| v.exp()).sum();
    let want: Vec<f64> = wx.iter().map(|v| v.exp() / total).collect();
    reference("softmax", &got, &want, 1e-6);

    let got = on_every_tier("add", |k| changed(x, |acc| k.add(acc, y)));
    let want: Vec<f32> = x.iter().zip(y).map(|(x, y)| x + y).collect();
    assert_eq!(bits(&got), bits(&want), "add");

    let got = on_every_tier("multiply", |k| changed(x, |x| k.multiply(x, y)));
    let want: Vec<f32> = x.iter().zip(y).map(|(x, y)| x * y).collect();
    assert_eq!(bits(&got), bits(&want), "multiply");

    let factor = y[n / 2];
    let got = in_both_modes("add_scaled", |k| changed(x, |acc| k.add_scaled(acc, y, factor)));
    let want: Vec<f32> = x.iter().zip(y).map(|(x, y)| x + factor * y).collect();
    assert_eq!(bits(&got), bits(&want), "add_scaled");
    let got = in_both_modes("scale", |k| changed(x, |x| k.scale(x, factor)));
    let want: Vec<f32> = x.iter().map(|x| x * factor).collect();
    assert_eq!(bits(&got), bits(&want), "scale");
}

/// Ops that look at a whole row first.
fn check_statistics(x: &[f32], y: &[f32], near: bool) {
    let (wx, wy, n) = (wide(x), wide(y), x.len() as f64);
    let reference = |what: &str, got: &[f32], want: &[f64]| {
        if near {
            assert_near(what, got, want, 3e-5);
        }
    };
    for deviations in [-0.5f32, 1.7] {
        let top = |k: &Kernels| changed(x, |x| k.gaussian_top_k(x, deviations));
        let got = in_both_modes("gaussian_top_k", top);
        let mean = wx.iter().sum::<f64>() / n;
        let variance = wx.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let least = mean + f64::from(deviations) * variance.sqrt();
        let want: Vec<f64> = wx.iter().map(|v| (v - least).max(0.0)).collect();
        reference("gaussian_top_k", &got, &want);
    }

    let mean_square = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>() / n;
    for least in [1e-5f32, 100.0] {
        let got = in_both_modes("match_rms", |k| changed(x, |x| k.match_rms(x, y, least)));
        let factor = (mean_square(&wy) / mean_square(&wx).max(f64::from(least))).sqrt();
        let want: Vec<f64> = wx.iter().map(|v| v * factor).collect();
        reference("match_rms", &got, &want);
    }

    let rows = [y, x, y].concat();
    let got = in_both_modes("dots", |k| written(3, |out| k.dots(x, &rows, out)));
    let dot = |row: &[f64]| row.iter().zip(&wx).map(|(a, b)| a * b).sum::<f64>();
    if near {
        let size = wx.iter().chain(&wy).map(|v| v * v).sum::<f64>();
        for (got, want) in got.into_iter().zip([dot(&wy), dot(&wx), dot(&wy)]) {
            assert!((f64::from(got) - want).abs() <= 1e-6 * (1.0 + size), "dots {got}, not {want}");
        }
    }
}

/// Rope in both styles, over part of the head and over several heads.
fn check_rope(half: usize, rest: usize, seed: f32) {
    let head_dim = 2 * half + rest;
    let x: Vec<f32> = (0..3 * head_dim).map(|i| (i as f32 * 0.37 + seed).sin()).collect();
    let angles: Vec<f32> = (0..half).map(|i| seed / (1.0 + i as f32)).collect();
    let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
    for style in [RopeStyle::Pairs, RopeStyle::Halves] {
        let got = on_every_tier(&format!("rope {style:?}"), |k| {
            changed(&x, |x| k.rope(style, x, head_dim, &cos, &sin))
        });
        let mut want = wide(&x);
        for head in want.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (a, b) = match style {
                    RopeStyle::Pairs => (2 * i, 2 * i + 1),
                    RopeStyle::Halves => (i, i + half),
                };
                let (c, d) = (f64::from(cos[i]), f64::from(sin[i]));
                (head[a], head[b]) = (head[a] * c - head[b] * d, head[b] * c + head[a] * d);
            }
        }
        assert_near("rope", &got, &want, 3e-7);
    }
}

fn rows(values: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (1usize..200).prop_flat_map(move |n| {
        let row = || proptest::collection::vec(values.clone(), n);
        (row(), row())
    })
}

proptest! {
    #[test]
    fn ops_are_near_double_precision((x, y) in rows(-12.0f32..12.0)) {
        check(&x, &y, true);
        check_statistics(&x, &y, true);
    }

    /// NaN, infinities and subnormal numbers among them: no reference, but the same bits.
    #[test]
    fn any_floats_give_the_same_bits((x, y) in rows(proptest::num::f32::ANY)) {
        check(&x, &y, false);
        check_statistics(&x, &y, false);
    }

    #[test]
    fn rope_is_near_double_precision(half in 1usize..40, rest in 0usize..9, seed in -9.0f32..9.0) {
        check_rope(half, rest, seed);
    }
}

#[test]
fn sizes_of_real_models() {
    for n in [896, 1536, 8960] {
        let wave = |seed: f32| (0..n).map(|i| (i as f32 * seed).sin() * 9.0).collect::<Vec<f32>>();
        check(&wave(0.37), &wave(1.7), true);
        check_statistics(&wave(0.37), &wave(1.7), true);
    }
    for half in [32, 64, 128] {
        check_rope(half, 0, 2.5);
    }
}

#[test]
fn softmax_of_masked_elements() {
    let x = [f32::NEG_INFINITY, 1000.0, f32::NEG_INFINITY];
    assert_eq!(on_every_tier("softmax", |k| changed(&x, |x| k.softmax(x))), [0.0, 1.0, 0.0]);
}

/// Units of `codes` values in records of `record` bytes, as the documentation of [`Activation`]
/// draws them; each block of `block` values has its own scale.
struct Form {
    kind: Activation,
    unit: usize,
    record: usize,
    block: usize,
    /// Where the scale of a block lies in the record, from the block's number.
    scale: fn(usize) -> usize,
}

/// The bits of 1.5 * 2^23, which dot products start from.
const MAGIC: i32 = 0x4b40_0000;

const FORMS: [Form; 2] = [
    Form { kind: Activation::Q8, unit: 64, record: 104, block: 32, scale: |b| 64 + 4 * b },
    Form { kind: Activation::Q8K, unit: 256, record: 320, block: 256, scale: |_| 304 },
];

fn check_quantized(form: &Form, x: &[f32]) {
    let float = |b: &[u8]| f32::from_le_bytes(b[..4].try_into().unwrap());
    let mut row = vec![0xa5u8; form.kind.row_bytes(x.len())];
    portable().quantize_row(form.kind, x, &mut row, Place::ALONE);
    for (x, record) in x.chunks(form.unit).zip(row.chunks_exact(form.record)) {
        for (b, codes) in record[..form.unit].chunks_exact(form.block).enumerate() {
            let x = x.get(b * form.block..).unwrap_or_default();
            let x = &x[..x.len().min(form.block)];
            let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scale = float(&record[(form.scale)(b)..]);
            assert!((scale - most / 127.0).abs() <= most * 1e-7, "{scale} for {most}");
            for (i, &code) in codes.iter().enumerate() {
                let (got, want) = (f32::from(code as i8) * scale, x.get(i).copied().unwrap_or(0.0));
                assert!((got - want).abs() <= 0.5001 * scale, "{:?} {got} for {want}", form.kind);
            }
            let sum = |codes: &[u8]| codes.iter().map(|&c| i32::from(c as i8)).sum::<i32>();
            if form.kind == Activation::Q8 {
                let total = sum(codes);
                assert_eq!(float(&record[72 + 4 * b..]), scale * total as f32);
                for (at, factor) in [(80, -8), (88, -16), (96, -128)] {
                    let field = record[at + 4 * b..][..4].try_into().unwrap();
                    assert_eq!(i32::from_le_bytes(field), MAGIC + factor * total);
                }
            } else {
                let field = |at: usize| {
                    i32::from(i16::from_le_bytes(record[at..at + 2].try_into().unwrap()))
                };
                for (i, codes) in codes.chunks_exact(16).enumerate() {
                    assert_eq!(field(256 + 2 * i), sum(codes));
                }
                for (i, j) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
                    assert_eq!(field(288 + 2 * i), sum(&codes[32 * j..][..32]));
                }
            }
        }
    }
    for isa in Isa::supported() {
        let mut got = vec![0xa5u8; row.len()];
        Kernels::for_isa(isa).unwrap().quantize_row(form.kind, x, &mut got, Place::ALONE);
        let used = x.len().div_ceil(form.unit) * form.record;
        assert_eq!(got[..used], row[..used], "{isa}-quantize_row {:?}", form.kind);
    }
}

proptest! {
    #[test]
    fn quantized_rows_are_as_documented(
        x in proptest::collection::vec(-50.0f32..50.0, 1..600),
        quiet in any::<bool>(),
    ) {
        // A block of zeros has no scale to divide by.
        let x: Vec<f32> = if quiet { x.iter().map(|_| 0.0).collect() } else { x };
        for form in &FORMS {
            check_quantized(form, &x);
        }
    }
}

#[test]
fn words_add_up() {
    let bytes: Vec<u8> = (0..64 * 37 + 13).map(|i| (i * i % 251) as u8).collect();
    for len in [0, 63, 64, 64 * 4, 64 * 5, bytes.len()] {
        let bytes = &bytes[..len];
        let words = bytes[..len / 64 * 64].as_chunks::<4>().0.iter();
        let want = words.fold(0i32, |sum, word| sum.wrapping_add(i32::from_le_bytes(*word)));
        for isa in Isa::supported() {
            for ahead in [0, 2048] {
                let mut sum = -1;
                Kernels::for_isa(isa).unwrap().sum_words(bytes, ahead, &mut sum);
                assert_eq!(sum, want, "{isa}-sum_words of {len} bytes, {ahead} ahead");
            }
        }
    }
}

/// The matrix as it is defined, times each block.
fn walsh_hadamard(x: &[f64], block: usize) -> Vec<f64> {
    let row = |x: &[f64], i: usize| {
        let sign = |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        x.iter().enumerate().map(|(j, v)| sign(j) * v).sum::<f64>() / (block as f64).sqrt()
    };
    x.chunks_exact(block).flat_map(|x| (0..block).map(move |i| row(x, i))).collect()
}

#[test]
fn walsh_hadamard_is_the_matrix_on_every_tier() {
    for block in [1, 2, 4, 8, 16, 32, 128, 1024] {
        let x: Vec<f32> = (0..3 * block).map(|i| ((i * i) as f32 * 0.37).sin() * 3.0).collect();
        let want = walsh_hadamard(&wide(&x), block);
        let turn = |k: &Kernels| changed(&x, |x| k.walsh_hadamard(block, x));
        let got = in_both_modes("walsh_hadamard", turn);
        assert_near("walsh_hadamard", &got, &want, 1e-6);
        let back = changed(&got, |x| portable().walsh_hadamard(block, x));
        assert_near("its inverse", &back, &wide(&x), 1e-6);
    }
}

#[test]
#[should_panic(expected = "24 values in blocks of 16")]
fn walsh_hadamard_takes_whole_blocks() {
    Kernels::best().walsh_hadamard(16, &mut [0.0; 24]);
}

#[test]
#[should_panic(expected = "24 values in blocks of 12")]
fn walsh_hadamard_takes_powers_of_two() {
    Kernels::best().walsh_hadamard(12, &mut [0.0; 24]);
}
