//! What layers get of a token beside the residual stream.

use super::decoder::Decoder;
use super::keys::{self, Keys};
use super::rows::Row;
use crate::config::{Config, limits};
use crate::error::Result;
use crate::spec::{Block, Branch, LayerInput, LayerInputs, Mixer, Named, Slots};

/// Sizes of [`LayerInputs`].
#[derive(Debug)]
pub(super) struct LayerWidths {
    width: usize,
    vocab: usize,
}

impl LayerWidths {
    pub(super) fn read(keys: Keys, row: &Row, config: &Config) -> Result<Option<Self>> {
        let width = if row.layer_inputs { keys.count(keys::LAYER_INPUT)? } else { None };
        let default = (row.layer_inputs && matches!(keys, Keys::Json(_))).then_some(256);
        let vocab = match keys {
            Keys::Json(_) if row.layer_inputs => keys.size(keys::LAYER_INPUT_VOCAB)?,
            _ => None,
        };
        let Some(width) = width.or(default).filter(|&width| width > 0) else { return Ok(None) };
        if width.saturating_mul(config.n_layers) > limits::WIDTH {
            return Err(
                keys.error(keys::LAYER_INPUT, format_args!("is {width}, which is too wide"))
            );
        }
        Ok(Some(Self { width, vocab: vocab.unwrap_or(config.vocab_size) }))
    }
}

impl Decoder {
    /// The block of a layer that brings in its input.
    pub(super) fn layer_input(
        &self,
        slots: &mut Slots<'_>,
        layer: usize,
        &LayerWidths { width, .. }: &LayerWidths,
    ) -> Result<Block<Named>> {
        let hidden = self.config.hidden;
        let gate = slots.matrix("inp_gate", &[width, hidden])?;
        let projection = self.linear(slots, "proj", &[hidden, width], false)?;
        let mixer = Mixer::LayerInput(LayerInput { layer, act: self.row.act, gate, projection });
        let post = Some(self.norm(slots, "post_norm", hidden)?);
        let branches = vec![Branch { pre: None, mixer, post: None }];
        Ok(Block { post, to_others: self.streams.is_some(), ..Block::plain(branches) })
    }

    /// Of all layers.
    pub(super) fn inputs(
        &self,
        slots: &mut Slots<'_>,
        &LayerWidths { width, vocab }: &LayerWidths,
    ) -> Result<LayerInputs<Named>> {
        let Config { hidden, n_layers: layers, .. } = self.config;
        let all = layers * width;
        Ok(LayerInputs {
            width,
            layers,
            vocab,
            table: slots.matrix("per_layer_token_embd", &[vocab, all])?,
            projection: slots.matrix("per_layer_model_proj", &[all, hidden])?,
            norm: self.norm(slots, "per_layer_proj_norm", width)?,
        })
    }
}
