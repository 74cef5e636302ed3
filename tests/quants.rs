//! The values of every format against the reference's, to the bit.

mod common;

use common::assets;
use common::reference::Reference;
use goldcrest::Format;
use goldcrest_kernels::{PANEL_ROWS, pack_panel, unpack_row};

/// Values in a row of the reference, and its rows.
const K: usize = 256;
const ROWS: usize = 8;

#[track_caller]
fn are_the_same(format: Format, what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{format} {what} {i}: {got}, not {want}");
    }
}

/// From blocks that were quantised, and from random bytes.
#[test]
fn blocks_have_the_values_of_the_reference() {
    let Some(assets) = assets() else { return };
    // A float of single precision is its own reference; those of one fork alone are in `low_bit.rs`.
    let others = [Format::F32, Format::PQ2_0, Format::PTQ1_0];
    for &format in Format::ALL.iter().filter(|format| !others.contains(format)) {
        let reference = Reference::open(assets.join(format!("quants/{format}.safetensors")));
        for (blocks, values) in [("blocks", "values"), ("random_blocks", "random_values")] {
            let (blocks, want) = (reference.bytes(blocks), reference.floats(values));
            let mut got = vec![0.0; ROWS * K];
            format.dequantize(&blocks, &mut got);
            are_the_same(format, values, &got, &want);

            let mut panel = vec![0; format.panel_bytes(K)];
            pack_panel(format, K, &blocks, &mut panel);
            for (lane, got) in got.chunks_exact_mut(K).enumerate() {
                unpack_row(format, &panel, lane, got);
            }
            are_the_same(format, "packed", &got, &want);
            unpack_row(format, &panel, PANEL_ROWS - 1, &mut got[..K]);
            assert!(got[..K].iter().all(|&v| v == 0.0), "{format}: a row that is not there");
        }
    }
}

/// Where ggml's quantiser made the blocks, or one that gives the same bytes, ours gives them too.
#[test]
fn quantisers_give_the_bytes_of_the_reference() {
    let Some(assets) = assets() else { return };
    for format in Format::ALL.iter().copied().filter(|f| f.can_quantize() && *f != Format::F32) {
        let reference = Reference::open(assets.join(format!("quants/{format}.safetensors")));
        let (source, want) = (reference.floats("source"), reference.bytes("blocks"));
        let mut got = vec![0; want.len()];
        format.quantize(&source, &mut got).unwrap();
        let bytes = format.block_bytes();
        let blocks = got.chunks_exact(bytes).zip(want.chunks_exact(bytes));
        let differing = blocks.clone().filter(|(got, want)| got != want).count();
        assert_eq!(differing, 0, "{format}: of {} blocks", blocks.len());
    }
}

/// Zeros, one value alone, the least and great numbers: nothing but finite values, near their source.
#[test]
fn quantisers_take_any_block() {
    for format in Format::ALL.iter().copied().filter(|f| f.can_quantize() && f.block_len() > 1) {
        let n = format.block_len();
        let alone = |v: f32, at: usize| (0..n).map(|i| if i == at { v } else { 0.0 }).collect();
        let all = |v: f32| vec![v; n];
        let blocks: Vec<Vec<f32>> = vec![
            all(0.0),
            all(-0.0),
            all(1.0),
            all(-1.0),
            all(1e-30),
            all(f32::from_bits(1)),
            all(1e4),
            alone(1.0, 0),
            alone(-3.0, n - 1),
            alone(1e-20, 5),
            (0..n).map(|i| i as f32 - n as f32 / 2.0).collect(),
        ];
        for source in blocks {
            let mut bytes = vec![0; format.block_bytes()];
            let mut values = vec![f32::NAN; n];
            format.quantize(&source, &mut bytes).unwrap();
            format.dequantize(&bytes, &mut values);
            let size = source.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (value, source) in values.iter().zip(&source) {
                // The least of what a half float scales is 2^-24.
                let near = (value - source).abs() <= 0.5 * size + 1e-5;
                assert!(near, "{format}: {source} became {value} of {size}");
            }
        }
    }
}
