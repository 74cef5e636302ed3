//! Which type each tensor of a quantised file has.

use std::fmt;

use crate::load::GgmlType;

/// A kind of file that llama.cpp's quantiser writes: a main type and more bits where they matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    /// GGML's name in lower case, e.g. `q4_k_m`.
    pub name: &'static str,
    /// The number under `general.file_type`.
    pub file_type: u32,
    /// The type of most matrices.
    main: GgmlType,
    more: MoreBits,
}

/// Where some tensors get a better type than the rest, or another: `attn_v` (or `attn_qkv`) and `ffn_down` as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MoreBits {
    Nowhere,
    /// This type in the first layers: 4 of `attn_v`, an eighth of `ffn_down`.
    First(GgmlType),
    /// This type in the first and last eighth of the layers and in every third between.
    Spread(GgmlType),
    /// This type for the matrices of experts.
    Experts(GgmlType),
}

impl Mixture {
    /// Every mixture.
    pub const ALL: &'static [Self] = {
        use GgmlType::*;
        use MoreBits::*;
        const fn row(
            name: &'static str,
            file_type: u32,
            main: GgmlType,
            more: MoreBits,
        ) -> Mixture {
            Mixture { name, file_type, main, more }
        }
        &[
            row("f32", 0, F32, Nowhere),
            row("f16", 1, F16, Nowhere),
            row("bf16", 32, BF16, Nowhere),
            row("q8_0", 7, Q8_0, Nowhere),
            row("q4_0", 2, Q4_0, Nowhere),
            row("q4_1", 3, Q4_1, Nowhere),
            row("q5_0", 8, Q5_0, Nowhere),
            row("q5_1", 9, Q5_1, Nowhere),
            row("q2_k", 10, Q2_K, Nowhere),
            row("q3_k_s", 11, Q3_K, Nowhere),
            row("q4_k_s", 14, Q4_K, First(Q5_K)),
            row("q4_k_m", 15, Q4_K, Spread(Q6_K)),
            row("q5_k_s", 16, Q5_K, Nowhere),
            row("q5_k_m", 17, Q5_K, Spread(Q6_K)),
            row("q6_k", 18, Q6_K, Nowhere),
            row("iq4_nl", 25, IQ4_NL, Nowhere),
            row("iq4_xs", 30, IQ4_XS, Nowhere),
            row("tq1_0", 36, TQ1_0, Nowhere),
            row("tq2_0", 37, TQ2_0, Nowhere),
            row("mxfp4", 1024, MXFP4, Nowhere),
            row("mxfp4_moe", 38, Q8_0, Experts(MXFP4)),
            row("q1_0", 40, Q1_0, Nowhere),
            row("q2_0", 41, Q2_0, Nowhere),
        ]
    };

    /// The mixture of this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|mixture| mixture.name.eq_ignore_ascii_case(name))
    }

    /// The mixture of this number under `general.file_type`.
    pub fn by_file_type(file_type: u32) -> Option<&'static Self> {
        Self::ALL.iter().find(|mixture| mixture.file_type == file_type)
    }

    /// The type of the tensor `name` of this shape (outermost dimension first) in a model of
    /// `n_layers`; `tied` where the embedding is the output matrix, too.
    ///
    /// The rules are those of llama.cpp's quantiser for dense models, without an importance
    /// matrix; but the types of fewer bits than Q4_0 and the codebooks are in all matrices but the output.
    pub fn type_of(&self, name: &str, shape: &[usize], n_layers: usize, tied: bool) -> GgmlType {
        // A router is small, and chooses; so are the taps of a convolution.
        let small = ["ffn_gate_inp.weight", "conv1d.weight", "conv.weight", ".bias"];
        if shape.len() < 2 || small.iter().any(|end| name.ends_with(end)) {
            return GgmlType::F32;
        }
        let k = shape[shape.len() - 1];
        if self.main.block_len() == 1 {
            return self.main;
        }
        let output = name == "output.weight" || tied && name == "token_embd.weight";
        let wanted = if output {
            self.output_type(k)
        } else {
            self.better(name, n_layers).unwrap_or(self.main)
        };
        fallback(wanted, k)
    }

    fn output_type(&self, k: usize) -> GgmlType {
        if self.main == GgmlType::Q8_0 || !k.is_multiple_of(self.main.block_len()) {
            GgmlType::Q8_0
        } else {
            GgmlType::Q6_K
        }
    }

    fn better(&self, name: &str, n_layers: usize) -> Option<GgmlType> {
        let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        if let (MoreBits::Experts(ty), true) = (self.more, part.ends_with("_exps.weight")) {
            return Some(ty);
        }
        let eighth = n_layers / 8;
        let first = match part {
            "attn_v.weight" | "attn_qkv.weight" => 4,
            "ffn_down.weight" | "ffn_down_exps.weight" => eighth,
            _ => return None,
        };
        match self.more {
            MoreBits::First(ty) if layer < first => Some(ty),
            MoreBits::Spread(ty) if spread(layer, n_layers) => Some(ty),
            _ => None,
        }
    }
}

/// The layers whose values and down projections get more bits.
fn spread(layer: usize, n_layers: usize) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// The type for rows of `k` that do not fill whole blocks of `ty`.
fn fallback(ty: GgmlType, k: usize) -> GgmlType {
    if k.is_multiple_of(ty.block_len()) {
        return ty;
    }
    let smaller = match ty {
        GgmlType::Q2_K | GgmlType::Q3_K | GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        GgmlType::TQ1_0 | GgmlType::TQ2_0 | GgmlType::Q1_0 => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        _ => GgmlType::F16,
    };
    if k.is_multiple_of(smaller.block_len()) { smaller } else { GgmlType::F16 }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use GgmlType::*;

    fn mixture(name: &str) -> &'static Mixture {
        Mixture::by_name(name).unwrap()
    }

    #[test]
    fn q4_k_m_of_28_layers() {
        let better: Vec<usize> = (0..28)
            .filter(|layer| {
                let ty = |part: &str| {
                    let name = format!("blk.{layer}.{part}.weight");
                    mixture("q4_k_m").type_of(&name, &[256, 8960], 28, false)
                };
                assert_eq!(ty("attn_v"), ty("ffn_down"));
                assert_eq!(ty("attn_v"), ty("attn_qkv"));
                for part in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
                    assert_eq!(ty(part), Q4_K);
                }
                ty("attn_v") == Q6_K
            })
            .collect();
        assert_eq!(better, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
    }

    #[test]
    fn outputs_and_embeddings() {
        let ty = |name: &str, tensor: &str, k: usize, tied: bool| {
            mixture(name).type_of(tensor, &[1000, k], 28, tied)
        };
        for name in ["q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k"] {
            assert_eq!(ty(name, "output.weight", 1536, false), Q6_K);
            assert_eq!(ty(name, "token_embd.weight", 1536, true), Q6_K);
            assert_eq!(ty(name, "token_embd.weight", 576, true), Q8_0);
        }
        assert_eq!(ty("q4_k_m", "token_embd.weight", 1536, false), Q4_K);
        assert_eq!(ty("q8_0", "output.weight", 1536, false), Q8_0);
        assert_eq!(ty("bf16", "output.weight", 1536, false), BF16);
        assert_eq!(mixture("f16").type_of("output_norm.weight", &[64], 28, false), F32);
    }

    #[test]
    fn widths_that_are_no_multiple_of_256() {
        let ty =
            |name: &str, tensor: &str, k: usize| mixture(name).type_of(tensor, &[64, k], 30, true);
        assert_eq!(ty("q4_k_m", "blk.10.attn_q.weight", 576), Q5_0);
        assert_eq!(ty("q4_k_m", "blk.0.attn_v.weight", 576), Q8_0);
        assert_eq!(ty("q5_k_m", "blk.10.attn_q.weight", 576), Q5_1);
        assert_eq!(ty("q4_k_s", "blk.0.attn_v.weight", 576), Q5_1);
        assert_eq!(ty("q4_k_s", "blk.0.ffn_down.weight", 1536), Q5_K);
        assert_eq!(ty("q6_k", "blk.0.attn_q.weight", 576), Q8_0);
        assert_eq!(ty("q2_k", "blk.0.attn_q.weight", 576), IQ4_NL);
        assert_eq!(ty("q4_0", "blk.0.attn_q.weight", 48), F16);
    }
}
