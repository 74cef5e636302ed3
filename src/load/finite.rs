//! Scans for weights that are not finite numbers.

use super::ggml::GgmlType;

/// Whether a row holds a NaN or an infinity: in the scales of a quantised type, in the numbers of a float.
///
/// One such number turns every logit into NaN, so packing refuses the tensor. The scan is branch-free over a
/// block run, so that it costs little beside the packing loop, which has the bytes in cache already.
pub fn has_bad_scale(ty: GgmlType, rows: &[u8]) -> bool {
    match ty {
        GgmlType::F32 => {
            any(rows.as_chunks::<4>().0, |b| exponent_full(u32::from_le_bytes(*b), 0x7f80_0000))
        }
        GgmlType::F16 => any(rows.as_chunks::<2>().0, |b| exponent_full(half_bits(*b), 0x7c00)),
        GgmlType::BF16 => any(rows.as_chunks::<2>().0, |b| exponent_full(half_bits(*b), 0x7f80)),
        GgmlType::F64 => rows
            .as_chunks::<8>()
            .0
            .iter()
            .any(|b| u64::from_le_bytes(*b) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000),
        GgmlType::Q4_0 => scan::<18, 1>(rows, [0]),
        GgmlType::Q4_1 => scan::<20, 2>(rows, [0, 2]),
        GgmlType::Q5_0 => scan::<22, 1>(rows, [0]),
        GgmlType::Q5_1 => scan::<24, 2>(rows, [0, 2]),
        GgmlType::Q8_0 => scan::<34, 1>(rows, [0]),
        _ => {
            let offsets = ty.scale_offsets();
            rows.chunks_exact(ty.block_bytes()).any(|block| {
                offsets
                    .iter()
                    .any(|&at| exponent_full(half_bits([block[at], block[at + 1]]), 0x7c00))
            })
        }
    }
}

/// The types that run, with sizes known to the compiler; a test holds them against the table.
fn scan<const BYTES: usize, const N: usize>(rows: &[u8], offsets: [usize; N]) -> bool {
    any(rows.as_chunks::<BYTES>().0, |block| {
        offsets.iter().fold(false, |bad, &at| {
            bad | exponent_full(half_bits([block[at], block[at + 1]]), 0x7c00)
        })
    })
}

/// The first block that [`has_bad_scale`] objects to (of one element for floats), to say where.
///
/// # Errors
/// The block's index.
pub fn check_finite(ty: GgmlType, bytes: &[u8]) -> Result<(), usize> {
    if !has_bad_scale(ty, bytes) {
        return Ok(());
    }
    let bad = bytes.chunks_exact(ty.block_bytes()).position(|block| has_bad_scale(ty, block));
    bad.map_or(Ok(()), Err)
}

fn half_bits(bytes: [u8; 2]) -> u32 {
    u16::from_le_bytes(bytes).into()
}

fn exponent_full(bits: u32, mask: u32) -> bool {
    bits & mask == mask
}

/// `Iterator::any` without the early exit inside a run, which would keep the loop from being vectorised.
fn any<const N: usize>(items: &[[u8; N]], bad: impl Fn(&[u8; N]) -> bool) -> bool {
    items.chunks(1024).any(|run| run.iter().fold(false, |seen, item| seen | bad(item)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_scale_of_each_type() {
        for &ty in GgmlType::ALL {
            let clean = vec![0u8; ty.block_bytes() * 3];
            assert_eq!(check_finite(ty, &clean), Ok(()), "{ty}");
            for &at in ty.scale_offsets() {
                for bad in [0x7c00u16, 0xfc00, 0x7e01] {
                    let mut bytes = clean.clone();
                    let at = 2 * ty.block_bytes() + at;
                    bytes[at..at + 2].copy_from_slice(&bad.to_le_bytes());
                    assert_eq!(check_finite(ty, &bytes), Err(2), "{ty}");
                }
            }
        }
    }

    #[test]
    fn codes_are_not_scales() {
        let mut block = vec![0xffu8; 18];
        block[..2].copy_from_slice(&0x3c00u16.to_le_bytes());
        assert!(!has_bad_scale(GgmlType::Q4_0, &block));
    }

    #[test]
    fn floats() {
        let mut floats: Vec<u8> = (0..3000).flat_map(|i| (i as f32).to_le_bytes()).collect();
        assert_eq!(check_finite(GgmlType::F32, &floats), Ok(()));
        floats[2500 * 4..2501 * 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert_eq!(check_finite(GgmlType::F32, &floats), Err(2500));
        let bf16 = 0xff80u16.to_le_bytes();
        assert_eq!(check_finite(GgmlType::BF16, &bf16), Err(0));
        assert_eq!(check_finite(GgmlType::F16, &0x7bffu16.to_le_bytes()), Ok(()));
    }
}
