//! Recurrent mixers.

use super::{Loaded, Plan};
use crate::error::{Result, tensor_error};
use crate::spec::{Convolution, Decay, DeltaNet, Mamba, Named, ShortConv};

impl Plan<'_> {
    pub(super) fn delta_net(&mut self, mixer: &DeltaNet<Named>) -> Result<DeltaNet<Loaded>> {
        let [q, k, v, gate, beta, alpha] = &mixer.inputs;
        Ok(DeltaNet {
            heads: mixer.heads,
            inputs: [
                self.linear(q)?,
                self.linear(k)?,
                self.linear(v)?,
                self.linear(gate)?,
                self.linear(beta)?,
                self.linear(alpha)?,
            ],
            conv: self.convolution(&mixer.conv)?,
            decay: self.decay(&mixer.decay)?,
            norm: self.norm(&mixer.norm)?,
            output: self.linear(&mixer.output)?,
            kept: mixer.kept,
        })
    }

    pub(super) fn short_conv(&mut self, mixer: &ShortConv<Named>) -> Result<ShortConv<Loaded>> {
        Ok(ShortConv {
            input: self.linear(&mixer.input)?,
            conv: self.convolution(&mixer.conv)?,
            output: self.linear(&mixer.output)?,
            kept: mixer.kept,
        })
    }

    pub(super) fn mamba(&mut self, mixer: &Mamba<Named>) -> Result<Mamba<Loaded>> {
        let norm = match &mixer.norm {
            Some((norm, order)) => Some((self.norm(norm)?, *order)),
            None => None,
        };
        Ok(Mamba {
            heads: mixer.heads,
            input: self.linear(&mixer.input)?,
            factors: mixer.factors,
            conv: self.convolution(&mixer.conv)?,
            decay: self.decay(&mixer.decay)?,
            skip: self.vector(&mixer.skip)?,
            norm,
            output: self.linear(&mixer.output)?,
            kept: mixer.kept,
        })
    }

    fn convolution(&mut self, conv: &Convolution<Named>) -> Result<Convolution<Loaded>> {
        let &Convolution { taps, channels, .. } = conv;
        let by_channel = self.vector(&conv.weights)?;
        let by_tap = |tap: usize| by_channel.iter().skip(tap).step_by(taps).copied();
        Ok(Convolution {
            taps,
            channels,
            weights: (0..taps).flat_map(by_tap).collect(),
            bias: self.optional_vector(conv.bias.as_ref())?,
        })
    }

    fn decay(&mut self, decay: &Decay<Named>) -> Result<Decay<Loaded>> {
        let &Decay { logarithms, limits, .. } = decay;
        let mut rates = self.vector(&decay.rates)?;
        if logarithms {
            rates.iter_mut().for_each(|rate| *rate = -libm::expf(*rate));
        }
        if let Some(at) = rates.iter().position(|rate| *rate > 0.0 || !rate.is_finite()) {
            let problem = format!("tensor \"{}\": rate {at} makes a state grow", decay.rates.name);
            return Err(tensor_error(problem));
        }
        Ok(Decay { rates, logarithms: false, bias: self.vector(&decay.bias)?, limits })
    }
}
