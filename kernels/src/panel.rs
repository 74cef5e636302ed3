//! Packing rows of a file into panels, and reading a row back.

use half::{bf16, f16};

use crate::PANEL_ROWS;
use crate::format::{Format, scale_min};
use crate::matmul::layout::{self, HALVES, NIBBLES, VECTOR, affine, q6_k};

/// Packs up to sixteen rows of `k` values, one after another in the file's layout, into a panel.
///
/// Rows that are missing, and what pads K, multiply to zero.
///
/// # Panics
/// If `rows` is not 1 to 16 rows of [`Format::row_bytes`], or `panel` not
/// [`Format::panel_bytes`] long.
pub fn pack_panel(format: Format, k: usize, rows: &[u8], panel: &mut [u8]) {
    let row_bytes = format.row_bytes(k).unwrap_or(0);
    assert!(row_bytes > 0, "K = {k} is no row of {format}");
    let n = rows.len() / row_bytes;
    assert!(
        rows.len() == n * row_bytes && (1..=PANEL_ROWS).contains(&n),
        "{} bytes are not 1 to {PANEL_ROWS} rows of {row_bytes}",
        rows.len()
    );
    assert_eq!(panel.len(), format.panel_bytes(k), "bytes of a panel");
    if n < PANEL_ROWS || !k.is_multiple_of(layout::unit(format).0) {
        // Scales of zero: whatever the codes stand for, they multiply to zero.
        panel.fill(0);
    }
    match format {
        Format::F32 => scatter::<4>(rows, row_bytes, panel),
        Format::F16 | Format::BF16 => scatter::<2>(rows, row_bytes, panel),
        Format::Q8_0 => pack_rows::<{ Format::Q8_0 as usize }>(rows, row_bytes, panel),
        Format::Q4_0 => pack_rows::<{ Format::Q4_0 as usize }>(rows, row_bytes, panel),
        Format::Q4_1 => pack_rows::<{ Format::Q4_1 as usize }>(rows, row_bytes, panel),
        Format::Q5_0 => pack_rows::<{ Format::Q5_0 as usize }>(rows, row_bytes, panel),
        Format::Q5_1 => pack_rows::<{ Format::Q5_1 as usize }>(rows, row_bytes, panel),
        Format::Q4_K => pack_rows::<{ Format::Q4_K as usize }>(rows, row_bytes, panel),
        Format::Q5_K => pack_rows::<{ Format::Q5_K as usize }>(rows, row_bytes, panel),
        Format::Q6_K => pack_rows::<{ Format::Q6_K as usize }>(rows, row_bytes, panel),
    }
}

fn scatter<const N: usize>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        let groups = panel.chunks_exact_mut(N * PANEL_ROWS);
        for (v, group) in row.as_chunks::<N>().0.iter().zip(groups) {
            group[lane * N..][..N].copy_from_slice(v);
        }
    }
}

/// Packs rows of the format that is number `FORMAT` of [`Format::ALL`]: four at a time, so that
/// whole vectors are read and written, then singly.
fn pack_rows<const FORMAT: usize>(rows: &[u8], row_bytes: usize, panel: &mut [u8]) {
    let quads = rows.chunks_exact(4 * row_bytes);
    let rest = quads.remainder().chunks_exact(row_bytes);
    let lane = rows.len() / row_bytes / 4 * 4;
    for (quad, rows) in quads.enumerate() {
        let row = |i: usize| &rows[i * row_bytes..][..row_bytes];
        pack_lanes::<FORMAT, 4>([row(0), row(1), row(2), row(3)], 4 * quad, panel);
    }
    for (i, row) in rest.enumerate() {
        pack_lanes::<FORMAT, 1>([row], lane + i, panel);
    }
}

/// Packs `N` rows to the lanes from `lane` on.
fn pack_lanes<const FORMAT: usize, const N: usize>(
    rows: [&[u8]; N],
    lane: usize,
    panel: &mut [u8],
) {
    let format = const { Format::ALL[FORMAT] };
    let (unit_len, unit_bytes) = layout::unit(format);
    let bytes = format.block_bytes();
    let parts = unit_len / layout::BLOCK;
    let blocks_per_unit = unit_len / format.block_len();
    for (u, unit) in panel.chunks_exact_mut(unit_bytes).enumerate() {
        for part in 0..parts {
            let block = u * blocks_per_unit + part * blocks_per_unit / parts;
            if (block + 1) * bytes > rows[0].len() {
                return;
            }
            let blocks = rows.map(|row| &row[block * bytes..][..bytes]);
            let words = blocks.map(|block| code_words(format, block, part));
            let at = layout::codes_at(format) + part * layout::code_bytes(format);
            let vectors = &mut unit[at..][..layout::code_bytes(format)];
            for (v, vector) in vectors.chunks_exact_mut(VECTOR).enumerate() {
                let lanes = words.map(|words| words[v].to_le_bytes());
                vector[4 * lane..][..4 * N].copy_from_slice(lanes.as_flattened());
            }
            for (i, block) in blocks.into_iter().enumerate() {
                pack_scales(format, block, part, lane + i, unit);
            }
        }
    }
}

/// What a lane has of each vector of a block of 32 codes: part `part` of a block of the file.
#[inline(always)]
fn code_words(format: Format, block: &[u8], part: usize) -> [u32; 8] {
    let mut out = [0; 8];
    match format {
        Format::Q8_0 => out = words(&block[2..]),
        Format::Q4_K | Format::Q5_K => {
            let codes = if format == Format::Q5_K { &block[48..] } else { &block[16..] };
            let bytes = words(&codes[part / 2 * 32..]);
            out[..4].copy_from_slice(&paired_nibbles(bytes, part % 2));
            if format == Format::Q5_K {
                let bits = words(&block[16..]);
                out[4] = (0..8).fold(0, |out, j| out | (bits[j] >> part & 0x0101_0101) << j);
            }
        }
        Format::Q6_K => {
            let (half, quarter) = (part / 4, part % 4);
            let low = words(&block[half * 64 + quarter % 2 * 32..]);
            let high = words(&block[128 + half * 32..]);
            out[..4].copy_from_slice(&paired_nibbles(low, quarter / 2));
            // Groups 0 to 3 fill the bit pairs of the first vector, groups 4 to 7 of the second.
            for (plane, high) in out[4..6].iter_mut().zip(high.chunks_exact(4)) {
                let pairs = high.iter().map(|bits| bits >> (2 * quarter) & 0x0303_0303);
                *plane = pairs.enumerate().fold(0, |plane, (j, pair)| plane | pair << (2 * j));
            }
        }
        _ => {
            let min = if layout::has_min(format) { 2 } else { 0 };
            let high = if layout::high_bytes(format) > 0 { 4 } else { 0 };
            let nibbles = block[2 + min + high..].as_chunks::<4>().0;
            for (out, nibbles) in out[..4].iter_mut().zip(nibbles) {
                *out = u32::from_le_bytes(*nibbles);
            }
            if high > 0 {
                let bits = *block[2 + min..].first_chunk().expect("32 bits");
                out[4] = fifth_bits(u32::from_le_bytes(bits));
            }
        }
    }
    out
}

/// The first 32 bytes.
#[inline(always)]
fn words(bytes: &[u8]) -> [u32; 8] {
    let bytes = bytes.as_chunks::<4>().0.first_chunk::<8>().expect("a block has 32 bytes here");
    bytes.map(u32::from_le_bytes)
}

/// The low (`which` 0) or high nibbles of 32 bytes as the file's 4-bit formats keep them: k and
/// k + 16 in one byte.
#[inline(always)]
fn paired_nibbles(bytes: [u32; 8], which: usize) -> [u32; 4] {
    const LOW: u32 = 0x0f0f_0f0f;
    std::array::from_fn(|i| match which {
        0 => bytes[i] & LOW | (bytes[i + 4] & LOW) << 4,
        _ => bytes[i] >> 4 & LOW | bytes[i + 4] & !LOW,
    })
}

/// Bits c, c + 4, ... of a word become byte c.
fn fifth_bits(bits: u32) -> u32 {
    (0..8).fold(0, |out, j| {
        let four = bits >> (4 * j) & 15;
        // Bit c of the four to bit 8 c.
        out | (four * 0x0020_4081 & 0x0101_0101) << j
    })
}

/// Writes what a lane has beside the codes of part `part` of a unit.
#[inline(always)]
fn pack_scales(format: Format, block: &[u8], part: usize, lane: usize, unit: &mut [u8]) {
    let mut put = |at: usize, bytes: &[u8]| unit[at..at + bytes.len()].copy_from_slice(bytes);
    match format {
        Format::Q4_K | Format::Q5_K => {
            let (scale, min) = scale_min(&block[4..16], part);
            put(affine::SCALES + part * PANEL_ROWS + lane, &[scale]);
            put(affine::MINS + part / 4 * VECTOR + 4 * lane + part % 4, &[min]);
            if part == 0 {
                put(2 * lane, &block[..2]);
                put(HALVES + 2 * lane, &block[2..4]);
            }
        }
        Format::Q6_K => {
            for half in 2 * part..2 * part + 2 {
                put(q6_k::SCALES + half * PANEL_ROWS + lane, &block[192 + half..][..1]);
            }
            if part == 0 {
                put(q6_k::SUPER + 2 * lane, &block[208..210]);
            }
        }
        _ => {
            let tail = 2 * layout::code_bytes(format) + part * HALVES + 2 * lane;
            put(tail, &block[..2]);
            if layout::has_min(format) {
                put(tail + 2 * HALVES, &block[2..4]);
            }
        }
    }
}

/// Writes row `lane` of a panel as floats: what [`Format::dequantize`] gives for the row that was
/// packed there.
///
/// # Panics
/// If `panel` is not [`Format::panel_bytes`] of `out.len()` values, or `lane` not below sixteen.
pub fn unpack_row(format: Format, panel: &[u8], lane: usize, out: &mut [f32]) {
    assert!(lane < PANEL_ROWS, "lane {lane}");
    assert_eq!(panel.len(), format.panel_bytes(out.len()), "bytes of a panel");
    let (len, bytes) = layout::unit(format);
    for (unit, out) in panel.chunks_exact(bytes).zip(out.chunks_mut(len)) {
        match format {
            Format::F32 => {
                let v = unit[4 * lane..].first_chunk().expect("four bytes a lane");
                out[0] = f32::from_le_bytes(*v);
            }
            Format::F16 => out[0] = half_at(unit, 2 * lane),
            Format::BF16 => {
                out[0] = bf16::from_le_bytes([unit[2 * lane], unit[2 * lane + 1]]).to_f32();
            }
            Format::Q4_K | Format::Q5_K => unpack_affine(format, unit, lane, out),
            Format::Q6_K => unpack_q6_k(unit, lane, out),
            _ => unpack_simple(format, unit, lane, out),
        }
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

/// Code `i` of a block of 32, high bits included.
fn code(format: Format, codes: &[u8], lane: usize, i: usize) -> u8 {
    let (j, c) = (i / 4, i % 4);
    let low = codes[j % 4 * VECTOR + 4 * lane + c] >> (j / 4 * 4) & 15;
    let high = match layout::high_bytes(format) {
        0 => 0,
        VECTOR => codes[NIBBLES + 4 * lane + c] >> j & 1,
        _ => codes[NIBBLES + j / 4 * VECTOR + 4 * lane + c] >> (j % 4 * 2) & 3,
    };
    low | high << 4
}

fn unpack_simple(format: Format, unit: &[u8], lane: usize, out: &mut [f32]) {
    let code_bytes = layout::code_bytes(format);
    for (b, out) in out.chunks_mut(layout::BLOCK).enumerate() {
        let tail = 2 * code_bytes + b * HALVES + 2 * lane;
        let scale = half_at(unit, tail);
        let codes = &unit[b * code_bytes..];
        for (i, out) in out.iter_mut().enumerate() {
            *out = match format {
                Format::Q8_0 => scale * f32::from(codes[i / 4 * VECTOR + 4 * lane + i % 4] as i8),
                Format::Q4_0 => scale * (f32::from(code(format, codes, lane, i)) - 8.0),
                Format::Q5_0 => scale * (f32::from(code(format, codes, lane, i)) - 16.0),
                _ => {
                    let min = half_at(unit, tail + 2 * HALVES);
                    scale * f32::from(code(format, codes, lane, i)) + min
                }
            };
        }
    }
}

fn unpack_affine(format: Format, unit: &[u8], lane: usize, out: &mut [f32]) {
    let code_bytes = layout::code_bytes(format);
    let (d, dmin) = (half_at(unit, 2 * lane), half_at(unit, HALVES + 2 * lane));
    for (j, out) in out.chunks_mut(layout::BLOCK).enumerate() {
        let scale = unit[affine::SCALES + j * PANEL_ROWS + lane];
        let min = unit[affine::MINS + j / 4 * VECTOR + 4 * lane + j % 4];
        let codes = &unit[affine::CODES + j * code_bytes..];
        for (i, out) in out.iter_mut().enumerate() {
            let code = code(format, codes, lane, i);
            *out = d * f32::from(scale) * f32::from(code) - dmin * f32::from(min);
        }
    }
}

fn unpack_q6_k(unit: &[u8], lane: usize, out: &mut [f32]) {
    let code_bytes = layout::code_bytes(Format::Q6_K);
    let d = half_at(unit, q6_k::SUPER + 2 * lane);
    for (i, out) in out.iter_mut().enumerate() {
        let scale = unit[q6_k::SCALES + i / 16 * PANEL_ROWS + lane] as i8;
        let codes = &unit[i / 32 * code_bytes..];
        let code = code(Format::Q6_K, codes, lane, i % 32);
        *out = d * f32::from(scale) * (f32::from(code) - 32.0);
    }
}
