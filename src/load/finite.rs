//! Scans for weights that are not finite numbers.

use super::ggml::GgmlType;
use super::{Checkpoint, Tensor};
use crate::error::Result;

/// Bytes that are scanned before their pages go back to the system: they fit into a cache.
const PIECE: usize = 1 << 20;

impl Checkpoint {
    /// [`check_values`](Self::check_values) for a tensor that stays in the file: piece by piece, each given
    /// back before the next, so that a mapped one takes no memory before it is used.
    ///
    /// # Errors
    /// As of [`check_values`](Self::check_values).
    pub(crate) fn check_in_place(&self, tensor: &Tensor) -> Result<()> {
        let block = tensor.ty.block_bytes();
        let piece = (PIECE / block).max(1) * block;
        for (start, bytes) in (0..).step_by(piece).zip(self.data(tensor).chunks(piece)) {
            check_finite(tensor.ty, bytes).map_err(|at| {
                let row = (start + at * block) / tensor.row_bytes();
                self.tensor_error(tensor, format_args!("holds NaN or infinity in row {row}"))
            })?;
            self.release(tensor, start..start + bytes.len());
        }
        Ok(())
    }
}

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
        GgmlType::IQ4_NL => scan::<18, 1>(rows, [0]),
        // A biased exponent, whose greatest is NaN.
        GgmlType::MXFP4 => any(rows.as_chunks::<17>().0, |block| block[0] == 0xff),
        GgmlType::IQ1_M => any(rows.as_chunks::<56>().0, |b| {
            // A quarter of the half float in each of the last four words.
            let [.., b53, _, b55] = b;
            let high = u32::from(b55 >> 4) << 12 | u32::from(b53 >> 4) << 8;
            exponent_full(high, 0x7c00)
        }),
        // Floats of eight bits, which have no infinity.
        GgmlType::NVFP4 => any(rows.as_chunks::<36>().0, |b| {
            b[..4].iter().fold(false, |bad, &scale| bad | exponent_full(scale.into(), 0x7f))
        }),
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
    use crate::error::ErrorKind;
    use crate::load::ReadOptions;
    use crate::model::Model;
    use crate::synthetic::{Mixture, Shape, save};

    /// The bytes of a model with an embedding of its own, and where that lies.
    fn untied(mixture: &str) -> (Vec<u8>, Tensor) {
        let shape = Shape {
            name: "tiny",
            hidden: 256,
            ffn: 256,
            n_layers: 1,
            n_heads: 4,
            n_kv_heads: 4,
            head_dim: 64,
            vocab: 4096,
            tied: false,
            ..Shape::by_name("smollm2-135m").unwrap().clone()
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        save(&shape, Mixture::by_name(mixture).unwrap(), 1, &path).unwrap();
        let checkpoint = Checkpoint::open(&path, &ReadOptions::default()).unwrap();
        (std::fs::read(&path).unwrap(), checkpoint.need("token_embd.weight").unwrap().clone())
    }

    #[test]
    fn an_embedding_that_is_not_packed_is_checked_at_load() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("damaged.gguf");
        for (mixture, bad) in [("f32", &f32::NAN.to_le_bytes()[..]), ("q8_0", &[0, 0x7e])] {
            let (mut bytes, embedding) = untied(mixture);
            Model::from_bytes("sound", bytes.clone()).threads(1).load().unwrap();
            // Beyond the first piece.
            let row = 4000;
            assert!(row * embedding.row_bytes() > PIECE);
            bytes[embedding.offset + row * embedding.row_bytes()..][..bad.len()]
                .copy_from_slice(bad);
            std::fs::write(&path, &bytes).unwrap();
            for error in [
                Model::loader(&path).threads(1).load().err(),
                Model::loader(&path).threads(1).mmap(false).load().err(),
                Model::from_bytes("given", bytes).threads(1).load().err(),
                Model::loader(&path).pack(dir.path().join("packed")).err(),
            ] {
                let error = error.expect("a NaN is refused");
                assert_eq!(error.kind(), ErrorKind::Tensor);
                let text = error.to_string();
                assert!(
                    text.contains("\"token_embd.weight\"") && text.contains("row 4000"),
                    "{text}"
                );
            }
        }
    }

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
    fn an_exponent_can_be_nan() {
        let mut blocks = [0xffu8; 3 * 17];
        blocks.chunks_exact_mut(17).for_each(|block| block[0] = 0xfe);
        assert_eq!(check_finite(GgmlType::MXFP4, &blocks), Ok(()));
        blocks[2 * 17] = 0xff;
        assert_eq!(check_finite(GgmlType::MXFP4, &blocks), Err(2));
    }

    #[test]
    fn finds_scales_that_are_no_half_floats() {
        let mut medium = [0u8; 2 * 56];
        // Infinity, 0x7c00, whose upper two quarters are the last two words' upper bits.
        (medium[56 + 53], medium[56 + 55]) = (0xc0, 0x70);
        assert_eq!(check_finite(GgmlType::IQ1_M, &medium), Err(1));
        medium[56 + 53] = 0xbf;
        assert_eq!(check_finite(GgmlType::IQ1_M, &medium), Ok(()));
        for scale in 0..4 {
            for (byte, want) in [(0x7f, Err(2)), (0xff, Err(2)), (0x7e, Ok(()))] {
                let mut nv = [0xffu8; 3 * 36];
                nv.as_chunks_mut::<36>().0.iter_mut().for_each(|block| block[..4].fill(0x38));
                nv[2 * 36 + scale] = byte;
                assert_eq!(check_finite(GgmlType::NVFP4, &nv), want);
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
