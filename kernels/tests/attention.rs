//! The KV cache and attention over it: against a naive reference in `f64`, and bit by bit the same
//! on every instruction set of this machine, however the work is cut.

#[path = "common/case.rs"]
mod case;
mod common;

use case::{Case, TYPES, causal, fewer_cases, load, regions};
use common::{bits, on_every_tier, portable};
use goldcrest_kernels::{Isa, Kernels, KvLayout, KvType, Span};
use proptest::prelude::*;

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Stores every position in a scattered order, each with awkward numbers, and reads all back.
fn check_cache(ty: KvType, head_dim: usize, value_dim: usize, positions: usize) {
    let layout = KvLayout::try_unequal(ty, head_dim, value_dim, positions).unwrap();
    assert!(layout.k_bytes().is_multiple_of(64) && layout.v_bytes().is_multiple_of(64));
    let awkward = [-1.5f32, 3e-6, -4e-8, 0.0, -0.0, 700.25, 1e-3, -0.333];
    let row = |p: usize, which: usize| -> Vec<f32> {
        let value = |d| awkward[(p * 7 + d * 3 + which) % awkward.len()];
        let len = if which == 0 { head_dim } else { value_dim };
        (0..len).map(|d| value(d) * (1.0 + (p + d) as f32 * 0.01)).collect()
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
        let (key, value) = got.split_at(head_dim);
        check_row(ty, key, &row(p, 0));
        check_row(ty, value, &row(p, 1));
    }
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

proptest! {
    #![proptest_config(fewer_cases())]
    #[test]
    fn the_cache_reads_back(
        half in 1usize..=128,
        value in 1usize..=256,
        positions in 1usize..50,
        ty in 0usize..3,
    ) {
        check_cache(TYPES[ty], 2 * half, 2 * half, positions);
        check_cache(TYPES[ty], 2 * half, value, positions);
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

/// Latent attention: values are shorter than keys, and may be of any length.
#[test]
fn keys_and_values_of_different_lengths() {
    for ty in TYPES {
        for (head_dim, value_dim, group, positions, queries, window) in [
            (72, 64, 16, 300, 1, 0),
            (576, 512, 3, 270, 2, 0),
            (24, 7, 5, 40, 19, 9),
            (8, 33, 1, 600, 3, 0),
            (192, 128, 2, 257, 1, 200),
        ] {
            let layout = KvLayout::try_unequal(ty, head_dim, value_dim, positions).unwrap();
            let spans = causal(positions, queries, window);
            let case = Case::within(layout, group, 0..positions, spans);
            case.check();
            case.with_sinks().check();
        }
    }
}

#[test]
fn sinks_enter_the_sum_once() {
    for ty in TYPES {
        for (head_dim, group, positions, queries, window) in
            [(16, 1, 1, 1, 0), (64, 8, 257, 3, 0), (34, 5, 530, 9, 128), (80, 2, 1025, 1, 0)]
        {
            let spans = causal(positions, queries, window);
            Case::new(ty, head_dim, group, positions, spans).with_sinks().check();
        }
    }
    // A sink far above all scores takes everything.
    let mut case = Case::new(KvType::F32, 8, 1, 9, causal(9, 2, 0));
    case.sinks = Some(vec![1e30]);
    assert!(case.run(portable()).iter().all(|v| *v == 0.0));
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
