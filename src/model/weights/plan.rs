//! What to pack and where: from the names of a model's blocks to its weights.

use std::ops::Range;

use goldcrest_kernels::{Format, PANEL_ROWS};

mod recurrent;
mod streams;

use super::{Expert, Loaded, Matrix};
use crate::error::{Result, input_error, unsupported};
use crate::load::{Checkpoint, Hadamard, Tensor, check_finite};
use crate::model::need::Fixed;
use crate::spec::{
    Attention, Block, Branch, Dense, Experts, KeysValues, Latent, LayerInput, LayerInputs, Linear,
    LowRank, Mixer, Named, Norm, RowMap, Scale, Slot, Spec, Up,
};

/// Matrices start on a page, so that each can be given back or mapped by itself.
const PAGE: usize = 4096;
/// But small ones, of which a file may claim thousands: on a line of the cache.
const LINE: usize = 64;
const SMALL: usize = 16 * PAGE;

/// One matrix's way from the file to the buffer.
pub(super) struct Source<'a> {
    pub(super) tensor: &'a Tensor,
    /// The matrix's rows in the tensor, which may hold those of all experts: or its columns, in the
    /// transposed matrix that begins at a row of the tensor.
    map: RowMap,
    transposed: Option<usize>,
    /// The matrix's own name: the tensor's, or that of one expert.
    pub(super) name: String,
    /// The format in the file.
    pub(super) from: Format,
    pub(super) matrix: Matrix,
}

impl Source<'_> {
    /// The tensor's row that is row `row` of the matrix.
    pub(super) fn row(&self, row: usize) -> usize {
        self.map.row(row)
    }

    /// Rows `rows` of the matrix, as runs of the tensor's. Of a transposed matrix the last row has
    /// all.
    pub(super) fn runs(&self, rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut at = rows.start;
        std::iter::from_fn(move || {
            if let Some(first) = self.transposed {
                let last = at < rows.end && rows.end == self.matrix.rows;
                at = rows.end;
                return last.then(|| first..first + self.matrix.k);
            }
            let len = (self.map.run - at % self.map.run).min(rows.end.checked_sub(at)?);
            let first = self.row(at);
            at += len;
            (len > 0).then_some(first..first + len)
        })
    }

    /// Rows `rows` of the matrix, gathered in `room` where they do not lie side by side.
    pub(super) fn rows<'b>(
        &self,
        checkpoint: &'b Checkpoint,
        rows: Range<usize>,
        room: &'b mut Vec<u8>,
    ) -> &'b [u8] {
        if self.tensor.is_in_parts() {
            room.clear();
            self.runs(rows).for_each(|run| checkpoint.blocks(self.tensor, run, room));
            return room;
        }
        let data = checkpoint.data(self.tensor);
        if let Some(first) = self.transposed {
            self.gather(data, first, rows, room);
            return room;
        }
        let bytes = self.tensor.row_bytes();
        let of = |run: Range<usize>| &data[run.start * bytes..run.end * bytes];
        let mut runs = self.runs(rows);
        let first = runs.next().map_or(&[][..], of);
        let Some(second) = runs.next() else { return first };
        room.clear();
        room.extend_from_slice(first);
        room.extend_from_slice(of(second));
        runs.for_each(|run| room.extend_from_slice(of(run)));
        room
    }

    /// Rows `rows` of the matrix whose transpose begins at row `first` of the tensor.
    fn gather(&self, data: &[u8], first: usize, rows: Range<usize>, room: &mut Vec<u8>) {
        let (size, bytes) = (self.from.block_bytes(), self.tensor.line_bytes());
        let columns = &data[first * bytes..][..self.matrix.k * bytes];
        room.clear();
        for row in rows {
            let at = self.row(row) * size;
            columns.chunks_exact(bytes).for_each(|k| room.extend_from_slice(&k[at..at + size]));
        }
    }
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
    /// Matrices that stay row by row.
    pub(super) tables: Vec<(&'a Tensor, Format)>,
    end: usize,
    /// Bytes of experts that a token does not go through.
    idle: u64,
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
            tables: Vec::new(),
            end: 0,
            idle: 0,
        }
    }

    /// All of a model, whose slots the checkpoint fills.
    pub(super) fn model(&mut self, spec: &Spec<Named>) -> Result<Spec<Loaded>> {
        let blocks = spec.blocks.iter().map(|block| self.block(block)).collect::<Result<_>>()?;
        let norm = self.norm(&spec.norm)?;
        let head = self.head(&spec.head)?;
        let embed = spec.embed.as_ref().map(|slot| self.rows(slot)).transpose()?;
        let positions = spec.positions.as_ref().map(|slot| self.rows(slot)).transpose()?;
        Ok(Spec {
            vocab: spec.vocab,
            hidden: spec.hidden,
            embed,
            positions,
            embed_scale: spec.embed_scale,
            layer_inputs: spec.layer_inputs.as_ref().map(|i| self.layer_inputs(i)).transpose()?,
            streams: spec.streams.as_ref().map(|streams| self.streams(streams)).transpose()?,
            ropes: spec.ropes.clone(),
            blocks,
            layers: spec.layers.clone(),
            norm,
            head,
            logits: spec.logits,
        })
    }

    /// Bytes of the buffer.
    pub(super) fn total(&self) -> usize {
        self.end
    }

    /// What the weights take in memory. What was read and not mapped is there already.
    pub(super) fn takes(&self) -> Fixed {
        let tables = self.tables.iter().map(|(tensor, _)| tensor.byte_len() as u64);
        let (is_mapped, panels) = (self.checkpoint.is_mapped(), self.end as u64);
        match self.checkpoint.panels() {
            None => {
                let copied = if is_mapped { 0 } else { tables.sum() };
                Fixed { weights: panels + copied, ..Fixed::default() }
            }
            Some(_) if is_mapped => Fixed { mapped: panels, ..Fixed::default() },
            Some(_) => Fixed::default(),
        }
    }

    /// Bytes of it that a token reads.
    pub(super) fn per_token(&self) -> u64 {
        self.end as u64 - self.idle
    }

    fn block(&mut self, block: &Block<Named>) -> Result<Block<Loaded>> {
        Ok(Block {
            branches: block.branches.iter().map(|b| self.branch(b)).collect::<Result<_>>()?,
            post: self.optional_norm(block.post.as_ref())?,
            factor: block.factor,
            scale: match &block.scale {
                Some(Scale::Tensor(scale)) => Some(Scale::Tensor(self.vector(scale)?)),
                Some(Scale::Number(scale)) => Some(Scale::Number(*scale)),
                None => None,
            },
            to_others: block.to_others,
        })
    }

    fn branch(&mut self, branch: &Branch<Named>) -> Result<Branch<Loaded>> {
        Ok(Branch {
            pre: self.optional_norm(branch.pre.as_ref())?,
            mixer: match &branch.mixer {
                Mixer::Attention(mixer) => Mixer::Attention(Box::new(self.attention(mixer)?)),
                Mixer::Latent(mixer) => Mixer::Latent(Box::new(self.latent(mixer)?)),
                Mixer::DeltaNet(mixer) => Mixer::DeltaNet(Box::new(self.delta_net(mixer)?)),
                Mixer::ShortConv(mixer) => Mixer::ShortConv(self.short_conv(mixer)?),
                Mixer::Mamba(mixer) => Mixer::Mamba(Box::new(self.mamba(mixer)?)),
                Mixer::Dense(mixer) => Mixer::Dense(self.dense(mixer)?),
                Mixer::Experts(mixer) => Mixer::Experts(self.experts(mixer)?),
                Mixer::LayerInput(mixer) => Mixer::LayerInput(LayerInput {
                    layer: mixer.layer,
                    act: mixer.act,
                    gate: self.matrix(&mixer.gate)?,
                    projection: self.linear(&mixer.projection)?,
                }),
                Mixer::LowRank(LowRank { left, right }) => {
                    Mixer::LowRank(LowRank { left: self.matrix(left)?, right: self.linear(right)? })
                }
                Mixer::Identity => Mixer::Identity,
                Mixer::Predict(mixer) => Mixer::Predict(self.predict(mixer)?),
                Mixer::Correct(mixer) => Mixer::Correct(self.correct(mixer)?),
            },
            post: self.optional_norm(branch.post.as_ref())?,
        })
    }

    fn layer_inputs(&mut self, inputs: &LayerInputs<Named>) -> Result<LayerInputs<Loaded>> {
        let LayerInputs { width, layers, vocab, .. } = *inputs;
        let table = self.rows(&inputs.table)?;
        let projection = self.matrix(&inputs.projection)?;
        Ok(LayerInputs { width, layers, vocab, table, projection, norm: self.norm(&inputs.norm)? })
    }

    fn optional_norm(&mut self, norm: Option<&Norm<Named>>) -> Result<Option<Norm<Loaded>>> {
        norm.map(|norm| self.norm(norm)).transpose()
    }

    fn optional_vector(&mut self, slot: Option<&Slot>) -> Result<Option<Vec<f32>>> {
        slot.map(|slot| self.vector(slot)).transpose()
    }

    fn norm(&mut self, norm: &Norm<Named>) -> Result<Norm<Loaded>> {
        Ok(Norm {
            centred: norm.centred,
            weight: self.optional_vector(norm.weight.as_ref())?,
            bias: self.optional_vector(norm.bias.as_ref())?,
            eps: norm.eps,
        })
    }

    fn attention(&mut self, mixer: &Attention<Named>) -> Result<Attention<Loaded>> {
        let Attention { heads, kept, norms_whole, norms_last, temperature, gated, rope, .. } =
            *mixer;
        Ok(Attention {
            q: self.linear(&mixer.q)?,
            q_norm: self.optional_norm(mixer.q_norm.as_ref())?,
            kv: mixer.kv.as_ref().map(|kv| self.keys_values(kv)).transpose()?,
            output_norm: self.optional_norm(mixer.output_norm.as_ref())?,
            output: self.linear(&mixer.output)?,
            heads,
            kept,
            norms_whole,
            norms_last,
            temperature,
            gated,
            sinks: self.optional_vector(mixer.sinks.as_ref())?,
            rope,
        })
    }

    fn keys_values(&mut self, kv: &KeysValues<Named>) -> Result<KeysValues<Loaded>> {
        Ok(KeysValues {
            k: self.linear(&kv.k)?,
            v: kv.v.as_ref().map(|v| self.linear(v)).transpose()?,
            k_norm: self.optional_norm(kv.k_norm.as_ref())?,
            v_norm: self.optional_norm(kv.v_norm.as_ref())?,
        })
    }

    fn linear(&mut self, linear: &Linear<Named>) -> Result<Linear<Loaded>> {
        let bias = self.optional_vector(linear.bias.as_ref())?;
        Ok(Linear { matrix: self.matrix(&linear.matrix)?, bias })
    }

    fn dense(&mut self, mixer: &Dense<Named>) -> Result<Dense<Loaded>> {
        let up = match &mixer.up {
            Up::Plain(up) => Up::Plain(self.linear(up)?),
            Up::Sparse([gate, up], deviations) => {
                Up::Sparse([self.linear(gate)?, self.linear(up)?], *deviations)
            }
            Up::Gated([gate, up]) => {
                let sources = [self.whole(&gate.matrix)?, self.whole(&up.matrix)?];
                let [first, second] = self.interleaved(sources)?;
                Up::Gated([
                    Linear { matrix: first, bias: self.optional_vector(gate.bias.as_ref())? },
                    Linear { matrix: second, bias: self.optional_vector(up.bias.as_ref())? },
                ])
            }
        };
        Ok(Dense {
            ffn: mixer.ffn,
            act: mixer.act,
            up,
            down_norm: self.optional_norm(mixer.down_norm.as_ref())?,
            down: self.linear(&mixer.down)?,
            gate: mixer.gate.as_ref().map(|gate| self.as_it_is(gate)).transpose()?,
        })
    }

    fn experts(&mut self, mixer: &Experts<Named>) -> Result<Experts<Loaded>> {
        let router = Linear {
            matrix: self.as_it_is(&mixer.router.matrix)?,
            bias: self.optional_vector(mixer.router.bias.as_ref())?,
        };
        let choice_bias = self.optional_vector(mixer.choice_bias.as_ref())?;
        let biases = match &mixer.biases {
            Some([gate, up, down]) => {
                Some([self.vector(gate)?, self.vector(up)?, self.vector(down)?])
            }
            None => None,
        };
        let before = self.end;
        let [gate, up, down] = &mixer.bank;
        let factors = [self.factors(gate)?, self.factors(up)?, self.factors(down)?];
        let expert = |i| self.expert(&mixer.bank, &factors, i);
        let bank = (0..mixer.count).map(expert).collect::<Result<_>>()?;
        let all = (self.end - before) as u64;
        self.idle += all - all * mixer.used as u64 / mixer.count as u64;
        let Experts { count, used, ffn, gating, selection, router_scale, .. } = *mixer;
        Ok(Experts {
            count,
            used,
            ffn,
            gating,
            selection,
            router_norm: self.optional_norm(mixer.router_norm.as_ref())?,
            router,
            router_scale,
            choice_bias,
            bank,
            biases,
        })
    }

    fn expert(
        &mut self,
        bank: &[Slot; 3],
        factors: &[Option<Vec<f32>>; 3],
        index: usize,
    ) -> Result<Expert> {
        let one = |which: usize| -> Result<_> {
            let mut source = self.one_of(&bank[which], index)?;
            source.matrix.factor = factors[which].as_ref().map_or(1.0, |factors| factors[index]);
            Ok(source)
        };
        let (gate_up, down) = ([one(0)?, one(1)?], one(2)?);
        Ok(Expert { gate_up: self.interleaved(gate_up)?, down: self.alone(down)? })
    }

    /// On the products of a slot's matrices.
    fn factors(&mut self, slot: &Slot) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.checkpoint.factor_of(slot) else { return Ok(None) };
        self.numbers(&tensor.name).map(Some)
    }

    fn latent(&mut self, mixer: &Latent<Named>) -> Result<Latent<Loaded>> {
        let [queries, latents] = &mixer.inputs;
        let low_rank = match &mixer.low_rank {
            Some((norm, linear)) => Some((self.norm(norm)?, self.linear(linear)?)),
            None => None,
        };
        Ok(Latent {
            heads: mixer.heads,
            inputs: [self.linear(queries)?, self.linear(latents)?],
            low_rank,
            norm: self.norm(&mixer.norm)?,
            keys: self.of_heads(&mixer.keys)?,
            values: self.of_heads(&mixer.values)?,
            output: self.linear(&mixer.output)?,
            kept: mixer.kept,
            rope: mixer.rope,
        })
    }

    fn of_heads(&mut self, slot: &Slot) -> Result<Vec<Matrix>> {
        let matrix = |head| {
            let source = self.one_of(slot, head)?;
            self.alone(source)
        };
        (0..slot.shape[0]).map(matrix).collect()
    }

    fn matrix(&mut self, slot: &Slot) -> Result<Matrix> {
        let source = self.whole(slot)?;
        self.alone(source)
    }

    /// A matrix that is not quantised: a router is small, and a wrong choice is no small error.
    fn as_it_is(&mut self, slot: &Slot) -> Result<Matrix> {
        let source = self.slot(slot, None)?;
        self.alone(source)
    }

    /// The matrix of the logits. Where few bits are asked for it gets more: its errors go straight
    /// into the probabilities, with no later layer to even them out.
    fn head(&mut self, head: &Linear<Named>) -> Result<Linear<Loaded>> {
        let six_bits = Format::Q6_K.row_bytes(head.matrix.shape[1]).is_some();
        let quantize = self.quantize.map(|format| match format {
            Format::Q8_0 | Format::Q4_0 => Format::Q8_0,
            _ if six_bits => Format::Q6_K,
            _ => Format::Q8_0,
        });
        let source = self.slot(&head.matrix, quantize)?;
        let matrix = self.alone(source)?;
        Ok(Linear { matrix, bias: self.optional_vector(head.bias.as_ref())? })
    }

    fn alone(&mut self, source: Source<'a>) -> Result<Matrix> {
        Ok(self.push(vec![source])?.remove(0))
    }

    fn interleaved(&mut self, [a, b]: [Source<'a>; 2]) -> Result<[Matrix; 2]> {
        let mut matrices = self.push(vec![a, b])?;
        let second = matrices.remove(1);
        Ok([matrices.remove(0), second])
    }

    /// A matrix that stays row by row.
    fn rows(&mut self, slot: &Slot) -> Result<usize> {
        let (tensor, format) = self.find(&slot.name)?;
        if tensor.is_packed() || tensor.is_in_parts() {
            let problem = "lies in parts, where rows are needed";
            return Err(self.checkpoint.tensor_error(tensor, problem));
        }
        self.tables.push((tensor, format));
        Ok(self.tables.len() - 1)
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

    fn whole(&mut self, slot: &Slot) -> Result<Source<'a>> {
        self.slot(slot, self.quantize)
    }

    /// All of a tensor, or the rows of the one that fuses it with others.
    fn slot(&mut self, slot: &Slot, quantize: Option<Format>) -> Result<Source<'a>> {
        let factor = self.factors(slot)?.map_or(1.0, |factors| factors[0]);
        let mut source = self.place(slot, quantize)?;
        source.matrix.factor = factor * slot.factor;
        Ok(source)
    }

    fn place(&self, slot: &Slot, quantize: Option<Format>) -> Result<Source<'a>> {
        let name = slot.name.clone();
        match self.checkpoint.part_of(slot) {
            Some(part) if part.transposed.is_some() => {
                let source = self.source(&part.tensor, part.rows, &slot.shape, name, quantize)?;
                self.transposed(source, 0)
            }
            Some(part) => self.source(&part.tensor, part.rows, &slot.shape, name, quantize),
            None => self.source(&slot.name, RowMap::from(0), &slot.shape, name, quantize),
        }
    }

    /// The same with the matrix transposed, from row `first` of the tensor on.
    fn transposed(&self, source: Source<'a>, first: usize) -> Result<Source<'a>> {
        if !matches!(source.from, Format::F32 | Format::F16 | Format::BF16) {
            let problem = "is quantised along the wrong dimension";
            return Err(self.checkpoint.tensor_error(source.tensor, problem));
        }
        Ok(Source { transposed: Some(first), ..source })
    }

    /// The matrix of one expert or head: of a tensor that holds those of all, or a tensor of its own.
    fn one_of(&self, slot: &Slot, expert: usize) -> Result<Source<'a>> {
        let (name, shape) = (slot.expert_name(expert), &slot.shape[1..]);
        if let Some(part) = self.checkpoint.part_of(slot) {
            if let Some(step) = part.transposed {
                let source = self.source(&part.tensor, part.rows, shape, name, self.quantize)?;
                return self.transposed(source, expert * step);
            }
            // Whole runs are an expert's.
            let map = RowMap { first: part.rows.row(expert * shape[0]), ..part.rows };
            return self.source(&part.tensor, map, shape, name, self.quantize);
        }
        if self.checkpoint.tensor(&slot.name).is_some() {
            let rows = RowMap::from(expert * shape[0]);
            return self.source(&slot.name, rows, shape, name, self.quantize);
        }
        self.source(&name.clone(), RowMap::from(0), shape, name, self.quantize)
    }

    fn source(
        &self,
        tensor: &str,
        map: RowMap,
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
        let matrix = Matrix { format, rows, k, turned, factor: 1.0, offset: 0, stride: 0 };
        let source = Source { tensor, map, transposed: None, name, from, matrix };
        if tensor.transposed { self.transposed(source, 0) } else { Ok(source) }
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

    /// The numbers of a tensor that is no matrix.
    fn numbers(&mut self, name: &str) -> Result<Vec<f32>> {
        let (tensor, format) = self.find(name)?;
        // Parts share a tensor, and branches a norm.
        if !self.vectors.iter().any(|other| std::ptr::eq(*other, tensor)) {
            self.vectors.push(tensor);
        }
        values(self.checkpoint, tensor, format)
    }

    /// A one-dimensional tensor as f32.
    fn vector(&mut self, slot: &Slot) -> Result<Vec<f32>> {
        let part = self.checkpoint.part_of(slot);
        let mut values = self.numbers(part.map_or(&slot.name, |part| &part.tensor))?;
        if let Some(part) = part {
            values =
                (0..slot.shape.iter().product()).map(|row| values[part.rows.row(row)]).collect();
        }
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
