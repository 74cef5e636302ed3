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
    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
        pack_row(format, row, lane, panel);
    }
}

fn pack_row(format: Format, row: &[u8], lane: usize, panel: &mut [u8]) {
    let (_, unit_bytes) = layout::unit(format);
    match format {
        Format::F32 => scatter::<4>(row, lane, panel),
        Format::F16 | Format::BF16 => scatter::<2>(row, lane, panel),
        Format::Q4_K | Format::Q5_K | Format::Q6_K => {
            let blocks = row.chunks_exact(format.block_bytes());
            for (block, unit) in blocks.zip(panel.chunks_exact_mut(unit_bytes)) {
                match format {
                    Format::Q6_K => pack_q6_k(block, lane, unit),
                    _ => pack_affine(format, block, lane, unit),
                }
            }
        }
        _ => {
            let pairs = row.chunks(2 * format.block_bytes());
            for (pair, unit) in pairs.zip(panel.chunks_exact_mut(unit_bytes)) {
                for (b, block) in pair.chunks_exact(format.block_bytes()).enumerate() {
                    pack_simple(format, block, b, lane, unit);
                }
            }
        }
    }
}

fn scatter<const N: usize>(row: &[u8], lane: usize, panel: &mut [u8]) {
    for (v, group) in row.as_chunks::<N>().0.iter().zip(panel.chunks_exact_mut(N * PANEL_ROWS)) {
        group[lane * N..][..N].copy_from_slice(v);
    }
}

/// Spreads bytes over vectors: four at a time go to this lane of the next vector.
fn spread(bytes: &[u8], lane: usize, vectors: &mut [u8]) {
    for (group, vector) in bytes.as_chunks::<4>().0.iter().zip(vectors.chunks_exact_mut(VECTOR)) {
        vector[lane * 4..][..4].copy_from_slice(group);
    }
}

/// Bits `at` of 32 bytes as a lane of the vector of high bits: bit j of byte c is k = 4 j + c.
fn high_bits(bit: impl Fn(usize) -> u8) -> [u8; 4] {
    let mut out = [0u8; 4];
    for (c, out) in out.iter_mut().enumerate() {
        for j in 0..8 {
            *out |= bit(4 * j + c) << j;
        }
    }
    out
}

fn pack_simple(format: Format, block: &[u8], b: usize, lane: usize, unit: &mut [u8]) {
    let code_bytes = layout::code_bytes(format);
    let min = if layout::has_min(format) { 2 } else { 0 };
    let high = if layout::high_bytes(format) > 0 { 4 } else { 0 };
    let (scales, codes) = block.split_at(2 + min + high);

    let tail = 2 * code_bytes + b * HALVES + 2 * lane;
    unit[tail..tail + 2].copy_from_slice(&scales[..2]);
    if min > 0 {
        unit[tail + 2 * HALVES..][..2].copy_from_slice(&scales[2..4]);
    }
    let out = &mut unit[b * code_bytes..][..code_bytes];
    spread(codes, lane, out);
    if high > 0 {
        let bits = u32::from_le_bytes(scales[2 + min..].try_into().unwrap_or_default());
        // Bits c, c + 4, ... of the word become byte c.
        out[NIBBLES + 4 * lane..][..4].copy_from_slice(&high_bits(|i| (bits >> i & 1) as u8));
    }
}

/// The nibbles of 32 codes as the file's 4-bit formats keep them: k and k + 16 in one byte.
fn paired_nibbles(code: impl Fn(usize) -> u8) -> [u8; 16] {
    let mut out = [0u8; 16];
    for (i, out) in out.iter_mut().enumerate() {
        *out = code(i) & 15 | code(i + 16) << 4;
    }
    out
}

fn pack_affine(format: Format, block: &[u8], lane: usize, unit: &mut [u8]) {
    let code_bytes = layout::code_bytes(format);
    let codes = if format == Format::Q5_K { &block[48..] } else { &block[16..] };
    unit[2 * lane..][..2].copy_from_slice(&block[..2]);
    unit[HALVES + 2 * lane..][..2].copy_from_slice(&block[2..4]);
    for j in 0..8 {
        let (scale, min) = scale_min(&block[4..16], j);
        unit[affine::SCALES + j * PANEL_ROWS + lane] = scale;
        unit[affine::MINS + j / 4 * VECTOR + 4 * lane + j % 4] = min;

        let bytes: &[u8; 32] = codes[j / 2 * 32..].first_chunk().expect("128 bytes of codes");
        let out = &mut unit[affine::CODES + j * code_bytes..][..code_bytes];
        let nibbles = if j % 2 == 0 {
            paired_nibbles(|i| bytes[i])
        } else {
            paired_nibbles(|i| bytes[i] >> 4)
        };
        spread(&nibbles, lane, out);
        if format == Format::Q5_K {
            let bits: &[u8; 32] = block[16..].first_chunk().expect("32 bytes of high bits");
            out[NIBBLES + 4 * lane..][..4].copy_from_slice(&high_bits(|i| bits[i] >> j & 1));
        }
    }
}

fn pack_q6_k(block: &[u8], lane: usize, unit: &mut [u8]) {
    let code_bytes = layout::code_bytes(Format::Q6_K);
    for b in 0..8 {
        let (part, quarter) = (b / 4, b % 4);
        let low: &[u8; 32] =
            block[part * 64 + quarter % 2 * 32..].first_chunk().expect("128 bytes of low bits");
        let high: &[u8; 32] =
            block[128 + part * 32..].first_chunk().expect("64 bytes of high bits");
        let out = &mut unit[b * code_bytes..][..code_bytes];
        let nibbles =
            if quarter < 2 { paired_nibbles(|i| low[i]) } else { paired_nibbles(|i| low[i] >> 4) };
        spread(&nibbles, lane, out);
        // Groups 0 to 3 fill the bit pairs of the first vector, groups 4 to 7 of the second.
        let mut planes = [0u8; 8];
        for (i, bits) in high.iter().enumerate() {
            let (j, c) = (i / 4, i % 4);
            planes[j / 4 * 4 + c] |= (bits >> (2 * quarter) & 3) << (2 * (j % 4));
        }
        spread(&planes, lane, &mut out[NIBBLES..]);
    }
    for (i, &scale) in block[192..208].iter().enumerate() {
        unit[q6_k::SCALES + i * PANEL_ROWS + lane] = scale;
    }
    unit[q6_k::SUPER + 2 * lane..][..2].copy_from_slice(&block[208..210]);
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
