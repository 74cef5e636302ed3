//! Lengths that only look right because arithmetic on `usize` wraps, as it does in the release
//! profile: each must be refused before memory is touched.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{portable, refused};
use goldcrest_kernels::{
    Activation, Attend, AttendOut, CHUNK, Format, HeadRowsMut, KvLayout, KvType, Merge, Place,
    Rows, Span, Tile, partial_len, scratch_len,
};
use proptest::prelude::*;

/// Times sixteen it is 0.
const SIXTEENTH: usize = 1 << (usize::BITS - 4);

#[test]
fn tiles() {
    let mut out = [0.0; 16];
    refused("a tile of 17 rows", || Tile::new(&mut out, SIXTEENTH, 17, 16));
    refused("a tile of 2 rows", || Tile::new(&mut out, usize::MAX, 2, 16));
}

#[test]
fn rows_of_activations() {
    let data = [0; 64];
    let rows = |kind, k, rows| Rows::new(kind, k, &data, rows, 2);
    // Rows that wrap together, and each.
    refused("16 rows", || rows(Activation::F32, SIXTEENTH / 4, 16));
    for &kind in Activation::ALL {
        refused("does not fit in memory", || rows(kind, usize::MAX, 1));
        refused("does not fit in memory", || kind.row_bytes(usize::MAX));
    }
}

#[test]
fn places_in_a_group() {
    let mut out = [0; 64];
    let place = Place { rows: usize::MAX / 64 + 2, row: 1 };
    for kind in [Activation::F32, Activation::Q8] {
        let mut out = vec![0; kind.row_bytes(16)];
        let place = Place { rows: usize::MAX / out.len() + 2, ..place };
        refused("of a group", || portable().quantize_row(kind, &[1.0; 16], &mut out, place));
    }
    refused("rows of 0", || portable().quantize_rows(Activation::F32, 0, &[], &mut out));
}

#[test]
fn panels() {
    for &format in Format::ALL {
        // Every format has more than two bytes for a k of sixteen rows.
        for k in [usize::MAX, usize::MAX / 2] {
            refused("does not fit in memory", || format.panel_bytes(k));
        }
        let blocks = usize::MAX / format.block_len();
        let bytes = usize::try_from(blocks as u128 * format.block_bytes() as u128).ok();
        assert_eq!(format.row_bytes(blocks * format.block_len()), bytes, "{format}");
    }
    // On 64 bits: K of 2^58 + 1 is one unit of 64 bytes, if it wraps.
    let (panel, mut out) = ([0; 64], [0.0; 16]);
    let rows = Rows::new(Activation::F32, 1, &[0; 64], 0, portable().group());
    let k = SIXTEENTH / 4 + 1;
    refused("does not fit in memory", || {
        portable().matmul(Format::F32, k, &panel, rows, Tile::new(&mut out, 16, 0, 16));
    });
}

#[test]
fn layouts_of_keys_and_values() {
    for ty in [KvType::F32, KvType::F16, KvType::Q8_0] {
        // A panel of this many positions wraps to one of sixteen.
        let panels = usize::MAX / KvLayout::new(ty, 32, 16).v_panel_bytes() + 2;
        for (head_dim, positions) in
            [(32, panels * 16), (32, usize::MAX), (SIXTEENTH, 16), (usize::MAX - 1, 0)]
        {
            refused("do not fit in memory", || KvLayout::new(ty, head_dim, positions));
            assert_eq!(KvLayout::try_new(ty, head_dim, positions), None);
        }
        refused("do not fit in memory", || KvLayout::ring(ty, 32, usize::MAX - 255));
        assert_eq!(KvLayout::try_new(ty, 32, 100), Some(KvLayout::new(ty, 32, 100)));
    }
}

#[test]
fn sizes_of_attention() {
    for head_dim in [usize::MAX, usize::MAX - 31, usize::MAX / 32] {
        refused("does not fit in memory", || scratch_len(head_dim, 16));
        refused("does not fit in memory", || scratch_len(16, head_dim));
    }
    for head_dim in [usize::MAX, usize::MAX - 31] {
        refused("does not fit in memory", || partial_len(head_dim));
    }
}

/// Attention over a small cache, with whatever else is wrong.
struct Attention {
    group: usize,
    q_stride: usize,
    spans: Vec<Span>,
    sinks: Option<&'static [f32]>,
}

impl Attention {
    const HEAD_DIM: usize = 16;

    fn run(&self, out: AttendOut<'_>) {
        let layout = KvLayout::new(KvType::F32, Self::HEAD_DIM, 32);
        let (k, v) = (vec![0; layout.k_bytes()], vec![0; layout.v_bytes()]);
        let a = Attend {
            layout,
            k: &k,
            v: &v,
            q: &[1.0; 64],
            q_stride: self.q_stride,
            group: self.group,
            spans: &self.spans,
            scale: 1.0,
            softcap: None,
            sinks: self.sinks,
        };
        portable().attend(&a, out, &mut vec![0.0; scratch_len(Self::HEAD_DIM, Self::HEAD_DIM)]);
    }
}

fn spans(n: usize) -> Vec<Span> {
    vec![Span { start: 0, end: 20 }; n]
}

#[test]
fn queries() {
    let mut out = [0.0; 17 * 16];
    // The last query would begin at the first.
    let far = Attention { group: 1, q_stride: SIXTEENTH, spans: spans(17), sinks: None };
    refused("64 elements are not 17 queries", || {
        far.run(AttendOut::Rows(HeadRowsMut::new(&mut out, 16)))
    });
    // All heads together would be none.
    let many = Attention { group: SIXTEENTH, q_stride: 16, spans: spans(1), sinks: None };
    refused("64 elements are not 1 queries", || {
        many.run(AttendOut::Rows(HeadRowsMut::new(&mut out, 16)))
    });
}

#[test]
fn finished_rows() {
    let mut out = [0.0; 16];
    let good = Attention { group: 1, q_stride: 0, spans: spans(17), sinks: None };
    refused("room for 16", || good.run(AttendOut::Rows(HeadRowsMut::new(&mut out, SIXTEENTH))));
}

#[test]
fn chunks() {
    let good = Attention { group: 1, q_stride: 16, spans: spans(1), sinks: None };
    let mut partials = vec![f32::NAN; partial_len(16)];
    // Its first position would be 0.
    for chunk in [usize::MAX / CHUNK + 1, usize::MAX] {
        refused("chunk", || good.run(AttendOut::Chunk { chunk, partials: &mut partials }));
    }
    // One that begins beyond the cache has nothing to see.
    good.run(AttendOut::Chunk { chunk: 7, partials: &mut partials });
    assert_eq!(partials[..16], [0.0; 16]);
}

#[test]
fn merged_chunks() {
    let mut scratch = vec![0.0; scratch_len(16, 16)];
    let mut merge = |value_dim, group, positions, chunks, sinks| {
        let mut out = [0.0; 64];
        let out = HeadRowsMut::new(&mut out, 16);
        let merge = Merge { value_dim, group, positions, chunks, partials: &[], sinks };
        portable().attend_merge(&merge, out, &mut scratch);
    };
    let partial = partial_len(16);
    for (group, positions, chunks) in [
        (1, 1, usize::MAX / partial + 1),
        (1, 4, usize::MAX / partial / 4 + 1),
        (usize::MAX / 4 + 1, 4, 1),
    ] {
        refused("length of partials", || merge(16, group, positions, chunks, None));
    }
    refused("does not fit in memory", || merge(usize::MAX - 31, 1, 1, 1, None));
    refused("a sink for each of 2 heads", || merge(16, 2, 0, 0, Some(&[0.0; 3])));
}

#[test]
fn sinks() {
    let mut out = [0.0; 32];
    let odd = Attention { group: 2, q_stride: 32, spans: spans(1), sinks: Some(&[0.0]) };
    refused("a sink for each of 2 heads", || {
        odd.run(AttendOut::Rows(HeadRowsMut::new(&mut out, 32)))
    });
}

#[test]
fn layouts_of_unequal_lengths() {
    let layout = |k, v, n| KvLayout::try_unequal(KvType::F16, k, v, n);
    assert_eq!(layout(16, SIXTEENTH, 16), None);
    assert_eq!(layout(SIXTEENTH, 16, 16), None);
    assert_eq!(layout(1 << 20, 16, usize::MAX >> 22), None);
    assert_eq!(layout(16, 16, 20), Some(KvLayout::new(KvType::F16, 16, 20)));
    refused("values have elements", || layout(16, 0, 16));
}

/// Numbers whose products wrap, and small ones.
fn lengths() -> impl Strategy<Value = usize> {
    let near = (0..usize::BITS, -2isize..=2)
        .prop_map(|(bit, off)| (1usize << bit).wrapping_add_signed(off));
    prop_oneof![0usize..20, near]
}

proptest! {
    /// Beside arithmetic that is wide enough.
    #[test]
    fn extents_are_exact(rows in lengths(), stride in lengths(), cols in lengths()) {
        let wide = |n: usize| n as u128;
        let extent = if rows == 0 { 0 } else { wide(rows - 1) * wide(stride) + wide(cols) };
        let mut out = [0.0; 300];
        let overlap = rows > 1 && stride < cols;
        let made = catch_unwind(AssertUnwindSafe(|| _ = Tile::new(&mut out, stride, rows, cols)));
        prop_assert_eq!(made.is_ok(), !overlap && extent <= 300, "{} {} {}", rows, stride, cols);
    }
}
