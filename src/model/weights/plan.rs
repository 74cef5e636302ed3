//! What to pack and where: the tensors of each layer, checked against the configuration.

use goldcrest_kernels::{Format, PANEL_ROWS};

use super::{Layer, Linear, Matrix, QkNorm};
use crate::config::Config;
use crate::error::{Result, input_error, unsupported};
use crate::load::{Checkpoint, Tensor, check_finite};

/// Matrices start on a page, so that each can be given back or mapped by itself.
const PAGE: usize = 4096;

/// One matrix's way from the file to the buffer.
pub(super) struct Source<'a> {
    pub(super) tensor: &'a Tensor,
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
    quantize: Option<Format>,
    pub(super) runs: Vec<Run<'a>>,
    /// One-dimensional tensors, in the order of their use.
    pub(super) vectors: Vec<&'a Tensor>,
    end: usize,
}

/// The weights of a model in the order of the forward pass.
pub(super) struct Parts<'a> {
    pub(super) layers: Vec<Layer>,
    pub(super) output_norm: Vec<f32>,
    pub(super) output: Matrix,
    /// The embedding's rows, where it is not the output matrix.
    pub(super) rows: Option<(&'a Tensor, Format)>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(checkpoint: &'a Checkpoint, quantize: Option<Format>) -> Self {
        Self { checkpoint, quantize, runs: Vec::new(), vectors: Vec::new(), end: 0 }
    }

    /// All of a model.
    pub(super) fn model(&mut self, config: &Config) -> Result<Parts<'a>> {
        let mut layers = Vec::with_capacity(config.n_layers);
        for index in 0..config.n_layers {
            layers.push(self.layer(config, index)?);
        }
        let output_norm = self.vector("output_norm.weight", config.hidden)?;
        let table = [config.vocab_size, config.hidden];
        let tied = self.checkpoint.tensor("output.weight").is_none();
        let name = if tied { "token_embd.weight" } else { "output.weight" };
        let output = self.output(name, table)?;
        let rows = if tied { None } else { Some(self.rows("token_embd.weight", table)?) };
        Ok(Parts { layers, output_norm, output, rows })
    }

    /// Bytes of the buffer.
    pub(super) fn total(&self) -> usize {
        self.end
    }

    /// Layer `index`: one place knows the tensors of a layer.
    fn layer(&mut self, config: &Config, index: usize) -> Result<Layer> {
        let row = config.arch.row();
        let (hidden, ffn) = (config.hidden, config.ffn);
        let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
        let name = |part: &str| format!("blk.{index}.{part}");
        let mut linear = |part: &str, rows: usize| -> Result<Linear> {
            let bias = name(&format!("{part}.bias"));
            let bias = if row.qkv_bias { self.vector(&bias, rows)? } else { Vec::new() };
            let matrix = self.matrix(&name(&format!("{part}.weight")), [rows, hidden])?;
            Ok(Linear { matrix, bias })
        };
        let qkv = [linear("attn_q", q)?, linear("attn_k", kv)?, linear("attn_v", kv)?];
        let qk_norm = if row.qk_norm {
            Some(QkNorm {
                q: self.vector(&name("attn_q_norm.weight"), config.head_dim)?,
                k: self.vector(&name("attn_k_norm.weight"), config.head_dim)?,
            })
        } else {
            None
        };
        let attn_output = self.matrix(&name("attn_output.weight"), [hidden, q])?;
        let names = [name("ffn_gate.weight"), name("ffn_up.weight")];
        let [gate, up] = self.interleaved(&names, [ffn, hidden])?;
        Ok(Layer {
            attn_norm: self.vector(&name("attn_norm.weight"), hidden)?,
            qkv,
            qk_norm,
            attn_output,
            ffn_norm: self.vector(&name("ffn_norm.weight"), hidden)?,
            gate,
            up,
            down: self.matrix(&name("ffn_down.weight"), [hidden, ffn])?,
        })
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let source = self.packed(name, shape, self.quantize)?;
        Ok(self.push(vec![source])?.remove(0))
    }

    /// The matrix of the logits. Where 4 bits are asked for it gets 8: its errors go straight
    /// into the probabilities, with no later layer to even them out.
    fn output(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let quantize = self.quantize.map(|f| if f == Format::Q4_0 { Format::Q8_0 } else { f });
        let source = self.packed(name, shape, quantize)?;
        Ok(self.push(vec![source])?.remove(0))
    }

    fn interleaved(&mut self, names: &[String; 2], shape: [usize; 2]) -> Result<[Matrix; 2]> {
        let sources = vec![
            self.packed(&names[0], shape, self.quantize)?,
            self.packed(&names[1], shape, self.quantize)?,
        ];
        let mut matrices = self.push(sources)?;
        let second = matrices.remove(1);
        Ok([matrices.remove(0), second])
    }

    /// A matrix that stays row by row.
    fn rows(&self, name: &str, shape: [usize; 2]) -> Result<(&'a Tensor, Format)> {
        let (tensor, format) = self.source(name, &shape)?;
        if tensor.is_packed() {
            let problem = "lies in panels, where rows are needed";
            return Err(self.checkpoint.tensor_error(tensor, problem));
        }
        Ok((tensor, format))
    }

    /// A tensor of exactly this shape and its format.
    fn source(&self, name: &str, shape: &[usize]) -> Result<(&'a Tensor, Format)> {
        let checkpoint = self.checkpoint;
        let tensor = checkpoint.need(name)?;
        if tensor.shape != shape {
            return Err(checkpoint.tensor_error(
                tensor,
                format_args!("has shape {:?}, the configuration says {shape:?}", tensor.shape),
            ));
        }
        let format = tensor.ty.kernel_format().ok_or_else(|| {
            unsupported(format!(
                "tensor \"{name}\" is {}, for which there are no kernels yet",
                tensor.ty
            ))
            .at(checkpoint.file_of(tensor))
        })?;
        if format.row_bytes(tensor.k()).is_none() {
            let problem =
                format_args!("is {format}, but its rows of {} are no whole blocks", tensor.k());
            return Err(checkpoint.tensor_error(tensor, problem));
        }
        Ok((tensor, format))
    }

    fn packed(
        &self,
        name: &str,
        shape: [usize; 2],
        quantize: Option<Format>,
    ) -> Result<Source<'a>> {
        let (tensor, from) = self.source(name, &shape)?;
        let [rows, k] = shape;
        // What is quantised already stays: a second rounding would only lose. So does a width
        // that the format cannot divide, as in the files of llama.cpp.
        let float = matches!(from, Format::F32 | Format::F16 | Format::BF16);
        let format = quantize.filter(|f| float && f.row_bytes(k).is_some()).unwrap_or(from);
        if tensor.is_packed() && format != from {
            return Err(input_error(
                "a packed file keeps the types that it was packed with: quantise while packing",
            ));
        }
        let matrix = Matrix { format, rows, k, offset: 0, stride: 0 };
        Ok(Source { tensor, from, matrix })
    }

    /// Places the sources side by side and returns their matrices. Those of a packed file have their
    /// place and must be side by side there.
    fn push(&mut self, mut sources: Vec<Source<'a>>) -> Result<Vec<Matrix>> {
        let stride = sources.iter().map(|s| s.matrix.panel_bytes()).sum();
        let panels = sources[0].matrix.rows.div_ceil(PANEL_ROWS);
        let mut at = self.end.next_multiple_of(PAGE);
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
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (tensor, format) = self.source(name, &[len])?;
        self.vectors.push(tensor);
        values(self.checkpoint, tensor, format)
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
