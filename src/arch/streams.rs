//! Several residual streams, and what stands beside attention in a model that has them.

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rows::Row;
use crate::error::Result;
use crate::spec::{
    Block, Branch, Correct, LowRank, Mixer, Named, Predict, Router, Scale, Slots, Streams,
};

/// The numbers of a model's streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    count: usize,
    active: usize,
    /// Whether what a layer's input is added to is scaled before.
    scaled: bool,
    /// Of the path beside attention.
    rank: usize,
}

impl Numbers {
    pub(super) fn read(keys: Keys, row: &Row) -> Result<Option<Self>> {
        if !row.streams {
            return Ok(None);
        }
        let count = keys.size(keys::STREAMS)?.unwrap_or(4);
        let active = keys.count(keys::ACTIVE_STREAM)?.unwrap_or(0);
        if count < 2 || active >= count {
            let problem = format!("is {active}, where there are {count}");
            return Err(keys.error(keys::ACTIVE_STREAM, problem));
        }
        // GGUF has no key for the rank; llama.cpp knows this one.
        let (scaled, rank) = match keys {
            Keys::Json(json) => (json.bool("altup_correct_scale")?, keys.size(keys::LOW_RANK)?),
            Keys::Gguf { .. } => (None, None),
        };
        let (scaled, rank) = (scaled.unwrap_or(true), rank.unwrap_or(64));
        Ok(Some(Self { count, active, scaled, rank }))
    }
}

impl Decoder {
    pub(super) fn all_streams(
        &self,
        slots: &mut Slots<'_>,
        Numbers { count, .. }: Numbers,
    ) -> Result<Streams<Named>> {
        let shape = [count - 1, self.config.hidden, self.config.hidden];
        Ok(Streams {
            count,
            split: slots.matrix("altup_proj", &shape)?,
            join: slots.matrix("altup_unembd_proj", &shape)?,
        })
    }

    pub(super) fn predict(&self, slots: &mut Slots<'_>, numbers: Numbers) -> Result<Block<Named>> {
        let n = numbers.count;
        let coefficients = slots.tensor("altup_predict_coef.weight", &[n * n, n], 0.0)?;
        let router = self.router(slots, numbers)?;
        self.routed(slots, Mixer::Predict(Predict { router, coefficients }))
    }

    pub(super) fn correct(&self, slots: &mut Slots<'_>, numbers: Numbers) -> Result<Block<Named>> {
        const SCALE: &str = "altup_correct_scale.weight";
        let n = numbers.count;
        let coefficients = slots.tensor("altup_correct_coef.weight", &[n, n], 0.0)?;
        let scale = if numbers.scaled {
            Some(slots.tensor(SCALE, &[self.config.hidden], 0.0)?)
        } else {
            slots.unused(SCALE);
            None
        };
        let router = self.router(slots, numbers)?;
        self.routed(slots, Mixer::Correct(Correct { router, coefficients, scale }))
    }

    fn router(&self, slots: &mut Slots<'_>, numbers: Numbers) -> Result<Router<Named>> {
        let Numbers { count, active, .. } = numbers;
        let weights = slots.tensor("altup_router.weight", &[count, self.config.hidden], 0.0)?;
        Ok(Router { count, active, weights })
    }

    /// A block of one step, which sees normalised rows.
    fn routed(&self, slots: &mut Slots<'_>, mixer: Mixer<Named>) -> Result<Block<Named>> {
        let pre = Some(self.norm(slots, "altup_router_norm", self.config.hidden)?);
        Ok(Block::plain(vec![Branch { pre, mixer, post: None }]))
    }

    /// Puts a learned residual beside attention (LAuReL: Menghani and others 2024): what attention reads,
    /// and a low-rank path from it, are added as well, and the sum is scaled down.
    pub(super) fn learned_residual(
        &self,
        slots: &mut Slots<'_>,
        Numbers { rank, .. }: Numbers,
        block: &mut Block<Named>,
    ) -> Result<()> {
        let hidden = self.config.hidden;
        let low_rank = LowRank {
            left: slots.matrix("laurel_l", &[rank, hidden])?,
            right: self.linear(slots, "laurel_r", &[hidden, rank], false)?,
        };
        if let Some(attention) = block.branches.first_mut() {
            attention.post = block.post.take();
        }
        let mut branch = |mixer, post| -> Result<()> {
            let pre = Some(self.norm(slots, "attn_norm", hidden)?);
            block.branches.push(Branch { pre, mixer, post });
            Ok(())
        };
        branch(Mixer::Identity, None)?;
        branch(Mixer::LowRank(low_rank), None)?;
        if let Some(low_rank) = block.branches.last_mut() {
            low_rank.post = Some(self.norm(slots, "laurel_post_norm", hidden)?);
        }
        block.scale = Some(Scale::Number(std::f32::consts::FRAC_1_SQRT_2));
        Ok(())
    }
}
