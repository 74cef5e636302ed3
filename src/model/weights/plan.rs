//! What to pack and where: from the names of a model's blocks to its weights.

use goldcrest_kernels::{Format, PANEL_ROWS};

use super::{Expert, Loaded, Matrix};
use crate::error::{Result, input_error, unsupported};
use crate::load::{Checkpoint, Hadamard, Tensor, check_finite};
use crate::spec::{Attention, Block, Dense, Experts, Linear, Mixer, Named, Norm, Slot, Spec};

/// Matrices start on a page, so that each can be given back or mapped by itself.
const PAGE: usize = 4096;
/// But small ones, of which a file may claim thousands: on a line of the cache.
const LINE: usize = 64;
const SMALL: usize = 16 * PAGE;

/// One matrix's way from the file to the buffer.
pub(super) struct Source<'a> {
    pub(super) tensor: &'a Tensor,
    /// The matrix's first row in the tensor, which may hold those of all experts.
    pub(super) first: usize,
    /// The matrix's own name: the tensor's, or that of one expert.
    pub(super) name: String,
    /// The format in the file.
    pub(super) from: Format,
    pub(super) matrix: Matrix,
}

/// A run of the buffer: a matrix, or two whose panels alternate.
pub(super) struct Run<'a> {
    pub(super) sources: Vec<Source<'a>>,
    pub(super) offset: usize,
    /// Bytes of one panel of each source.
    pub(super) stride: usize,
    pub(super) panels: usize,
}

pub(super) struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    hadamard: Option<&'a Hadamard>,
    quantize: Option<Format>,
    pub(super) runs: Vec<Run<'a>>,
    /// One-dimensional tensors, in the order of their use.
    pub(super) vectors: Vec<&'a Tensor>,
    end: usize,
    /// Bytes of experts that a token does not go through.
    idle: u64,
}

/// A model, but for the embedding's rows.
pub(super) struct Planned<'a> {
    pub(super) spec: Spec<Loaded>,
    /// The embedding's rows, where it is not the head.
    pub(super) rows: Option<(&'a Tensor, Format)>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        hadamard: Option<&'a Hadamard>,
        quantize: Option<Format>,
    ) -> Self {
        Self {
            checkpoint,
            hadamard,
            quantize,
            runs: Vec::new(),
            vectors: Vec::new(),
            end: 0,
            idle: 0,
        }
    }

    /// All of a model, whose slots the checkpoint fills.
    pub(super) fn model(&mut self, spec: &Spec<Named>) -> Result<Planned<'a>> {
        let blocks = spec.blocks.iter().map(|block| self.block(block)).collect::<Result<_>>()?;
        let norm = self.norm(&spec.norm)?;
        let head = self.head(&spec.head)?;
        let rows = spec.embed.as_ref().map(|slot| self.rows(slot)).transpose()?;
        let spec = Spec {
            vocab: spec.vocab,
            hidden: spec.hidden,
            embed: None,
            embed_scale: spec.embed_scale,
            ropes: spec.ropes.clone(),
            blocks,
            norm,
            head,
        };
        Ok(Planned { spec, rows })
    }

    /// Bytes of the buffer.
    pub(super) fn total(&self) -> usize {
        self.end
    }

    /// Bytes of it that a token reads.
    pub(super) fn per_token(&self) -> u64 {
        self.end as u64 - self.idle
    }

    fn block(&mut self, block: &Block<Named>) -> Result<Block<Loaded>> {
        Ok(Block {
            pre: self.norm(&block.pre)?,
            mixer: match &block.mixer {
                Mixer::Attention(mixer) => Mixer::Attention(self.attention(mixer)?),
                Mixer::Dense(mixer) => Mixer::Dense(self.dense(mixer)?),
                Mixer::Experts(mixer) => Mixer::Experts(self.experts(mixer)?),
            },
            post: block.post.as_ref().map(|norm| self.norm(norm)).transpose()?,
        })
    }

    fn norm(&mut self, norm: &Norm<Named>) -> Result<Norm<Loaded>> {
        Ok(Norm { weight: self.vector(&norm.weight)?, eps: norm.eps })
    }

    fn attention(&mut self, mixer: &Attention<Named>) -> Result<Attention<Loaded>> {
        let [q, k, v] = &mixer.qkv;
        let qkv = [self.linear(q)?, self.linear(k)?, self.linear(v)?];
        let qk_norm = match &mixer.qk_norm {
            Some([q, k]) => Some([self.norm(q)?, self.norm(k)?]),
            None => None,
        };
        let output = self.matrix(&mixer.output)?;
        Ok(Attention { heads: mixer.heads, qkv, qk_norm, output, rope: mixer.rope })
    }

    fn linear(&mut self, linear: &Linear<Named>) -> Result<Linear<Loaded>> {
        let bias = linear.bias.as_ref().map(|slot| self.vector(slot)).transpose()?;
        Ok(Linear { matrix: self.matrix(&linear.matrix)?, bias })
    }

    fn dense(&mut self, mixer: &Dense<Named>) -> Result<Dense<Loaded>> {
        let [gate, up] = &mixer.gate_up;
        Ok(Dense {
            ffn: mixer.ffn,
            act: mixer.act,
            gate_up: self.interleaved([self.whole(gate)?, self.whole(up)?])?,
            down: self.matrix(&mixer.down)?,
        })
    }

    fn experts(&mut self, mixer: &Experts<Named>) -> Result<Experts<Loaded>> {
        let router = self.as_it_is(&mixer.router)?;
        let before = self.end;
        let bank = (0..mixer.count).map(|i| self.expert(&mixer.bank, i)).collect::<Result<_>>()?;
        let all = (self.end - before) as u64;
        self.idle += all - all * mixer.used as u64 / mixer.count as u64;
        let Experts { count, used, ffn, act, renormalise, .. } = *mixer;
        Ok(Experts { count, used, ffn, act, renormalise, router, bank })
    }

    fn expert(&mut self, [gate, up, down]: &[Slot; 3], index: usize) -> Result<Expert> {
        let gate_up = [self.one_of(gate, index)?, self.one_of(up, index)?];
        let gate_up = self.interleaved(gate_up)?;
        let down = self.one_of(down, index)?;
        Ok(Expert { gate_up, down: self.push(vec![down])?.remove(0) })
    }

    fn matrix(&mut self, slot: &Slot) -> Result<Matrix> {
        let source = self.whole(slot)?;
        Ok(self.push(vec![source])?.remove(0))
    }

    /// A matrix that is not quantised: a router is small, and a wrong choice is no small error.
    fn as_it_is(&mut self, slot: &Slot) -> Result<Matrix> {
        let source = self.source(&slot.name, 0, &slot.shape, slot.name.clone(), None)?;
        Ok(self.push(vec![source])?.remove(0))
    }

    /// The matrix of the logits. Where 4 bits are asked for it gets 8: its errors go straight
    /// into the probabilities, with no later layer to even them out.
    fn head(&mut self, slot: &Slot) -> Result<Matrix> {
        let quantize = self.quantize.map(|f| if f == Format::Q4_0 { Format::Q8_0 } else { f });
        let source = self.source(&slot.name, 0, &slot.shape, slot.name.clone(), quantize)?;
        Ok(self.push(vec![source])?.remove(0))
    }

    fn interleaved(&mut self, [a, b]: [Source<'a>; 2]) -> Result<[Matrix; 2]> {
        let mut matrices = self.push(vec![a, b])?;
        let second = matrices.remove(1);
        Ok([matrices.remove(0), second])
    }

    /// A matrix that stays row by row.
    fn rows(&self, slot: &Slot) -> Result<(&'a Tensor, Format)> {
        let (tensor, format) = self.find(&slot.name)?;
        if tensor.is_packed() {
            let problem = "lies in panels, where rows are needed";
            return Err(self.checkpoint.tensor_error(tensor, problem));
        }
        Ok((tensor, format))
    }

    /// A tensor, which the check of the slots has found, and its format.
    fn find(&self, name: &str) -> Result<(&'a Tensor, Format)> {
        let tensor = self.checkpoint.need(name)?;
        let format = tensor.ty.kernel_format();
        let format = format.ok_or_else(|| {
            unsupported(format!("tensor \"{name}\" is {}, which has no kernels", tensor.ty))
        })?;
        Ok((tensor, format))
    }

    /// All of a tensor.
    fn whole(&self, slot: &Slot) -> Result<Source<'a>> {
        self.source(&slot.name, 0, &slot.shape, slot.name.clone(), self.quantize)
    }

    /// The matrix of one expert: of a tensor that holds those of all, or a tensor of its own.
    fn one_of(&self, slot: &Slot, expert: usize) -> Result<Source<'a>> {
        let (name, shape) = (slot.expert_name(expert), &slot.shape[1..]);
        if self.checkpoint.tensor(&slot.name).is_some() {
            return self.source(&slot.name, expert * shape[0], shape, name, self.quantize);
        }
        self.source(&name.clone(), 0, shape, name, self.quantize)
    }

    fn source(
        &self,
        tensor: &str,
        first: usize,
        shape: &[usize],
        name: String,
        quantize: Option<Format>,
    ) -> Result<Source<'a>> {
        let (tensor, from) = self.find(tensor)?;
        let (rows, k) = (shape[0], shape[1]);
        // What is quantised already stays: a second rounding would only lose. So does a width
        // that the format cannot divide, as in the files of llama.cpp.
        let float = matches!(from, Format::F32 | Format::F16 | Format::BF16);
        let format = quantize.filter(|f| float && f.row_bytes(k).is_some()).unwrap_or(from);
        if tensor.is_packed() && format != from {
            return Err(input_error(
                "a packed file keeps the types that it was packed with: quantise while packing",
            ));
        }
        let turned = self.hadamard.is_some_and(|hadamard| hadamard.turns(&name));
        let matrix = Matrix { format, rows, k, turned, offset: 0, stride: 0 };
        Ok(Source { tensor, first, name, from, matrix })
    }

    /// Places the sources side by side and returns their matrices. Those of a packed file have their
    /// place and must be side by side there.
    fn push(&mut self, mut sources: Vec<Source<'a>>) -> Result<Vec<Matrix>> {
        let stride = sources.iter().map(|s| s.matrix.panel_bytes()).sum();
        let panels = sources[0].matrix.rows.div_ceil(PANEL_ROWS);
        let alignment = if stride * panels < SMALL { LINE } else { PAGE };
        let mut at = self.end.next_multiple_of(alignment);
        if let Some(all) = self.checkpoint.panels() {
            at = self.checkpoint.place_in_panels(sources[0].tensor).map_or(all.len(), |(at, _)| at);
            self.check_places(&sources, at, stride)?;
            // What counts is how much there is.
            self.end += stride * panels;
        } else {
            self.end = at + stride * panels;
        }
        let offset = at;
        for Source { matrix, .. } in &mut sources {
            (matrix.offset, matrix.stride) = (at, stride);
            at += matrix.panel_bytes();
        }
        let matrices = sources.iter().map(|s| s.matrix.clone()).collect();
        self.runs.push(Run { sources, offset, stride, panels });
        Ok(matrices)
    }

    /// Checks that the sources' panels alternate from `at` on. That each lies inside the file was
    /// checked when it was opened.
    fn check_places(&self, sources: &[Source<'a>], mut at: usize, stride: usize) -> Result<()> {
        for Source { tensor, matrix, .. } in sources {
            if self.checkpoint.place_in_panels(tensor) != Some((at, stride)) {
                let problem = "does not lie in panels where the model needs it";
                return Err(self.checkpoint.tensor_error(tensor, problem));
            }
            at += matrix.panel_bytes();
        }
        Ok(())
    }

    /// A one-dimensional tensor as f32.
    fn vector(&mut self, slot: &Slot) -> Result<Vec<f32>> {
        let (tensor, format) = self.find(&slot.name)?;
        self.vectors.push(tensor);
        let mut values = values(self.checkpoint, tensor, format)?;
        if slot.plus != 0.0 {
            values.iter_mut().for_each(|x| *x += slot.plus);
        }
        Ok(values)
    }
}

/// All numbers of a tensor in rows.
pub(super) fn values(checkpoint: &Checkpoint, tensor: &Tensor, format: Format) -> Result<Vec<f32>> {
    let bytes = checkpoint.data(tensor);
    check_finite(tensor.ty, bytes).map_err(|at| {
        checkpoint.tensor_error(tensor, format_args!("is not finite in block {at}"))
    })?;
    let mut values = vec![0.0; tensor.elements()];
    format.dequantize(bytes, &mut values);
    Ok(values)
}
