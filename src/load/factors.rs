//! Factors on the products of a whole matrix: beside weights in NVFP4, whose scales of blocks are floats of
//! eight bits, and wherever else a GGUF file has them.

use super::{Checkpoint, Tensor};
use crate::spec::Slot;

/// The matrices that may have one, without their layers: those of llama.cpp.
const MATRICES: &[&str] = &[
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_qkv",
    "attn_gate",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_shexp",
    "ffn_up_shexp",
    "ffn_down_shexp",
    "ffn_gate_exps",
    "ffn_up_exps",
    "ffn_down_exps",
    "ssm_in",
    "ssm_out",
    "ssm_alpha",
    "ssm_beta",
    "output",
];

impl Checkpoint {
    /// The tensor with the factor on a slot's products; experts have one each.
    pub(crate) fn factor_of(&self, slot: &Slot) -> Option<&Tensor> {
        self.beside(slot, "scale")
    }

    /// The tensor with the greatest activation that calibration met, by which processors with products of
    /// four-bit floats scale what they round. Here and in llama.cpp on the CPU activations are not rounded to
    /// four bits, and nobody multiplies by it.
    pub(super) fn input_scale_of(&self, slot: &Slot) -> Option<&Tensor> {
        self.beside(slot, "input_scale")
    }

    /// A tensor about the matrix that fills a slot, whole or in part.
    fn beside(&self, slot: &Slot, what: &str) -> Option<&Tensor> {
        let of = |name: &str| {
            let stem = name.strip_suffix(".weight")?;
            let part = stem.strip_prefix("blk.").and_then(|rest| Some(rest.split_once('.')?.1));
            let part = part.unwrap_or(stem);
            let known = MATRICES.contains(&part);
            self.tensor(&format!("{stem}.{what}")).filter(|_| known)
        };
        match (self.part_of(slot), &slot.part) {
            (Some(part), _) => of(&part.tensor),
            // A packed file has matrices apart that its source had in one tensor.
            (None, Some(part)) if self.panels().is_some() => of(&slot.name).or(of(&part.tensor)),
            (None, _) => of(&slot.name),
        }
    }
}
