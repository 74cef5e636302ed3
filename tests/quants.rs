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
