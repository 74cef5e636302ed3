//! The blocks of a layer.

use super::decoder::Decoder;
use super::rows::{Parallel, Places};
use super::singles::Single;
use crate::error::Result;
use crate::spec::{Block, Branch, Mixer, Named, Scale, Slots};

/// How many mixers before a layer have keys and values in the state, and how many a recurrence.
#[derive(Clone, Copy)]
struct Kept {
    attentions: usize,
    recurrences: usize,
}

impl Kept {
    fn by(blocks: &[Block<Named>]) -> Self {
        let count = |keeps: fn(&Mixer<Named>) -> bool| {
            let branches = blocks.iter().flat_map(|block| &block.branches);
            branches.filter(|branch| keeps(&branch.mixer)).count()
        };
        Self { attentions: count(keeps_keys), recurrences: count(recurs) }
    }
}

impl Decoder {
    /// Adds the blocks of a layer to those before it.
    pub(super) fn layer(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        blocks: &mut Vec<Block<Named>>,
    ) -> Result<()> {
        let kept = Kept::by(blocks);
        if let Some(singles) = &self.singles {
            blocks.push(self.single(slots, layer, singles[layer], kept)?);
            return Ok(());
        }
        if self.parallel {
            blocks.push(self.parallel(slots, layer, kept)?);
            return Ok(());
        }
        if let Some(numbers) = self.streams {
            blocks.push(self.predict(slots, numbers)?);
        }
        blocks.push(self.first_block(slots, layer, kept)?);
        blocks.push(self.second_block(slots, layer)?);
        if let Some(numbers) = self.streams {
            blocks.push(self.correct(slots, numbers)?);
        }
        if let Some(widths) = &self.layer_inputs {
            blocks.push(self.layer_input(slots, layer, widths)?);
        }
        if let Some(last) = blocks.last_mut().filter(|_| self.row.layer_scale) {
            let scale = slots.tensor("layer_output_scale.weight", &[1], 0.0)?;
            last.scale = Some(Scale::Tensor(scale));
        }
        Ok(())
    }

    /// The block of a layer that has one mixer.
    fn single(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        single: Single,
        kept: Kept,
    ) -> Result<Block<Named>> {
        self.block(slots, ("attn_norm", "post_attention_norm"), |slots| {
            Ok(match (single, &self.recurrent) {
                (Single::Recurrent, Some(numbers)) => {
                    vec![self.recurrence(slots, numbers, kept.recurrences)?]
                }
                (Single::Dense, _) => self.feed_forward(slots, layer)?,
                _ => vec![self.attending(slots, layer, kept)?],
            })
        })
    }

    /// Attention, a recurrence, or both.
    fn first_block(&self, slots: &mut Slots<'_>, layer: usize, kept: Kept) -> Result<Block<Named>> {
        let recurrent = self.recurrent.as_ref().filter(|recurrent| recurrent.has(layer));
        let attends = recurrent.is_none() || self.row.beside_attention;
        let mut block = self.block(slots, ("attn_norm", "post_attention_norm"), |slots| {
            let mut mixers = Vec::new();
            if attends {
                mixers.push(self.attending(slots, layer, kept)?);
            }
            if let Some(numbers) = recurrent {
                mixers.push(self.recurrence(slots, numbers, kept.recurrences)?);
            }
            Ok(mixers)
        })?;
        if let Some(numbers) = self.streams {
            self.learned_residual(slots, numbers, &mut block)?;
        }
        Ok(block)
    }

    fn attending(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        Kept { attentions, .. }: Kept,
    ) -> Result<Mixer<Named>> {
        Ok(match self.latent {
            Some(numbers) => Mixer::Latent(Box::new(self.latent(slots, numbers, attentions)?)),
            None => Mixer::Attention(Box::new(self.attention(slots, layer, attentions)?)),
        })
    }

    /// The feed-forward layer.
    fn second_block(&self, slots: &mut Slots<'_>, layer: usize) -> Result<Block<Named>> {
        let norms = (self.row.ffn_norm, "post_ffw_norm");
        let mut block = self.block(slots, norms, |slots| self.feed_forward(slots, layer))?;
        if self.feed_forward.beside() {
            self.set_apart(slots, &mut block)?;
        }
        Ok(block)
    }

    /// Gives the branches of a block, dense and of experts, their own norms.
    fn set_apart(&self, slots: &mut Slots<'_>, block: &mut Block<Named>) -> Result<()> {
        let hidden = self.config.hidden;
        for (branch, n) in block.branches.iter_mut().zip(1..) {
            if n == 2 {
                branch.pre = Some(self.norm(slots, "pre_ffw_norm_2", hidden)?);
            }
            branch.post = Some(self.norm(slots, &format!("post_ffw_norm_{n}"), hidden)?);
        }
        Ok(())
    }

    /// A layer whose attention and feed-forward layer read the same rows.
    fn parallel(&self, slots: &mut Slots<'_>, layer: usize, kept: Kept) -> Result<Block<Named>> {
        let hidden = self.config.hidden;
        let second = match self.row.parallel {
            Parallel::OneNorm => "attn_norm",
            _ => self.row.ffn_norm,
        };
        let mut branches = Vec::new();
        let pre = Some(self.norm(slots, "attn_norm", hidden)?);
        let mixer = self.attending(slots, layer, kept)?;
        branches.push(Branch { pre, mixer, post: None });
        for mixer in self.feed_forward(slots, layer)? {
            let pre = Some(self.norm(slots, second, hidden)?);
            branches.push(Branch { pre, mixer, post: None });
        }
        Ok(Block { factor: self.factors.residual, ..Block::plain(branches) })
    }

    /// A block with its norms where the model has them. Its branches all read what the first norm
    /// makes.
    fn block(
        &self,
        slots: &mut Slots<'_>,
        (before, after): (&str, &str),
        mixers: impl FnOnce(&mut Slots<'_>) -> Result<Vec<Mixer<Named>>>,
    ) -> Result<Block<Named>> {
        let (hidden, places) = (self.config.hidden, self.row.norms);
        let norm = |slots: &mut Slots<'_>, there, part| {
            if there { self.norm(slots, part, hidden).map(Some) } else { Ok(None) }
        };
        let mut branches = Vec::new();
        for mixer in mixers(slots)? {
            let pre = norm(slots, places != Places::After, before)?;
            branches.push(Branch { pre, mixer, post: None });
        }
        let post = norm(slots, places != Places::Before, after)?;
        Ok(Block { post, factor: self.factors.residual, ..Block::plain(branches) })
    }
}

/// Whether a mixer has keys and values in the state.
fn keeps_keys(mixer: &Mixer<Named>) -> bool {
    match mixer {
        Mixer::Attention(attention) => attention.kv.is_some(),
        Mixer::Latent(_) => true,
        _ => false,
    }
}

/// Whether a mixer has a recurrence in the state.
fn recurs(mixer: &Mixer<Named>) -> bool {
    matches!(mixer, Mixer::DeltaNet(_) | Mixer::ShortConv(_) | Mixer::Mamba(_))
}
