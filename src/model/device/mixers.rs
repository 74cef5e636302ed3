//! Mixers as steps of a plan.

use goldcrest_gpu::{
    Attention as GpuAttention, CacheLayout, Choose, Count, Experts as GpuExperts, Gating, HeadNorm,
    Kind, NormStep, Part, Product, ROWS, Vectors, partials,
};
use goldcrest_kernels::{Nonlinearity, PANEL_ROWS, RopeStyle};

use super::Shared;
use super::body::{Input, Target, Writer, norm};
use super::upload::{MixerWeights, Pieces};
use crate::error::{Result, unsupported};
use crate::model::weights::Loaded;
use crate::spec::{Attention, Dense, Experts, Linear, Mixer, Norm, RankedBy, Scores, Spec, Up};

/// A mixer with its weights and vectors on the device.
pub(super) enum Bound<'a> {
    Attention(Box<BoundAttention<'a>>),
    Dense(BoundDense<'a>),
    Experts(Box<BoundExperts<'a>>),
}

pub(super) struct BoundAttention<'a> {
    mixer: &'a Attention<Loaded>,
    weights: &'a [Pieces],
    biases: Vec<Option<u32>>,
    norms: [Option<HeadNorm>; 3],
    output_norm: Option<HeadNorm>,
    sinks: Option<u32>,
    cache: (usize, CacheLayout),
}

pub(super) struct BoundDense<'a> {
    mixer: &'a Dense<Loaded>,
    weights: &'a [Pieces],
    biases: Vec<Option<u32>>,
    down_norm: Option<HeadNorm>,
}

pub(super) struct BoundExperts<'a> {
    mixer: &'a Experts<Loaded>,
    weights: &'a [Pieces],
    router_norm: Option<HeadNorm>,
    router_bias: Option<u32>,
    choice_bias: Option<u32>,
    biases: Option<[u32; 3]>,
}

fn biases<'l>(
    linears: impl Iterator<Item = &'l Linear<Loaded>>,
    vectors: &mut Vectors,
) -> Vec<Option<u32>> {
    linears.map(|linear| linear.bias.as_ref().map(|bias| vectors.add(bias))).collect()
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        spec: &Spec<Loaded>,
        mixer: &'a Mixer<Loaded>,
        weights: &'a MixerWeights,
        vectors: &mut Vectors,
        shared: &Shared,
    ) -> Result<Self> {
        let weights = &weights.0[..];
        let bind = |of: Option<&Norm<Loaded>>, width, vectors: &mut Vectors| {
            of.map(|of| norm(of, width, vectors))
        };
        match mixer {
            Mixer::Attention(mixer) => {
                let heads = mixer.heads;
                let whole = |width| if mixer.norms_whole { width } else { heads.head_dim };
                let kv = mixer.kv.as_ref();
                let norms = [
                    bind(mixer.q_norm.as_ref(), whole(heads.q()), vectors),
                    bind(kv.and_then(|kv| kv.k_norm.as_ref()), whole(heads.kv()), vectors),
                    bind(kv.and_then(|kv| kv.v_norm.as_ref()), heads.head_dim, vectors),
                ];
                let cache = shared.cache_of(mixer.kept);
                Ok(Self::Attention(Box::new(BoundAttention {
                    biases: biases(mixer.linears().chain([&mixer.output]), vectors),
                    norms,
                    output_norm: bind(mixer.output_norm.as_ref(), heads.q(), vectors),
                    sinks: mixer.sinks.as_ref().map(|sinks| vectors.add(sinks)),
                    cache: cache.ok_or_else(|| unsupported("keys that are not on the device"))?,
                    mixer,
                    weights,
                })))
            }
            Mixer::Dense(mixer) => Ok(Self::Dense(BoundDense {
                biases: biases(mixer.up.linears().iter().chain([&mixer.down]), vectors),
                down_norm: bind(mixer.down_norm.as_ref(), mixer.ffn, vectors),
                mixer,
                weights,
            })),
            Mixer::Experts(mixer) => Ok(Self::Experts(Box::new(BoundExperts {
                router_norm: bind(mixer.router_norm.as_ref(), spec.hidden, vectors),
                router_bias: mixer.router.bias.as_ref().map(|bias| vectors.add(bias)),
                choice_bias: mixer.choice_bias.as_ref().map(|bias| vectors.add(bias)),
                biases: mixer.biases.as_ref().map(|b| b.each_ref().map(|bias| vectors.add(bias))),
                mixer,
                weights,
            }))),
            _ => Err(unsupported("a mixer without GPU kernels")),
        }
    }

    /// Whether its first product can normalise what it reads.
    pub(super) fn fuses(&self) -> bool {
        match self {
            Self::Attention(attention) => attention.weights.iter().all(|w| w.0.len() == 1),
            // A gate of the whole layer reads the same rows.
            Self::Dense(dense) => dense.mixer.gate.is_none() && dense.weights[0].0.len() == 1,
            Self::Experts(_) => false,
        }
    }

    pub(super) fn write(
        &self,
        writer: &mut Writer<'_>,
        input: Input<'_>,
        target: &Target,
    ) -> Result<()> {
        match self {
            Self::Attention(attention) => attention.write(writer, input, target),
            Self::Dense(dense) => dense.write(writer, input, target),
            Self::Experts(experts) => experts.write(writer, input, target),
        }
    }
}

impl Writer<'_> {
    /// The last product of a branch.
    fn residual(
        &mut self,
        pieces: &Pieces,
        bias: Option<u32>,
        product: &Product<'_>,
        target: &Target,
    ) -> Result<()> {
        self.product(pieces, bias, &Product { out: &target.to, kind: target.kind(), ..*product })
    }

    /// A norm of `k` numbers of each row, from a column on, in place.
    fn in_place(
        &mut self,
        to: (&goldcrest_gpu::Floats, usize),
        k: usize,
        norm: Option<HeadNorm>,
    ) -> Result<()> {
        let Some(norm) = norm else { return Ok(()) };
        Ok(self.builder.norm(&NormStep {
            k,
            from: None,
            picked: false,
            to,
            norm: Some(norm),
            keep: 0.0,
            mix: 1.0,
            scale: 1.0,
            vectors: self.vectors,
        })?)
    }
}

impl BoundAttention<'_> {
    fn write(&self, writer: &mut Writer<'_>, input: Input<'_>, target: &Target) -> Result<()> {
        let (mixer, heads) = (self.mixer, self.mixer.heads);
        let linears: Vec<_> = mixer.linears().collect();
        let mut columns = Vec::new();
        let mut width = 0;
        for linear in &linears {
            columns.push(width);
            width += linear.matrix.rows.next_multiple_of(PANEL_ROWS);
        }
        let qkv = writer.buffers.rows("qkv", width)?;
        let attended = writer.buffers.rows("attended", heads.q())?;
        let vectors = writer.vectors;
        let product = Product {
            parts: &[],
            input: &input.from,
            norm: input.norm,
            pending: input.pending,
            out: &qkv,
            kind: Kind::Store { scale: 1.0, act: None },
            count: Count::Pass,
            row_factor: None,
            vectors,
        };
        let parts: Vec<_> = (0..linears.len())
            .flat_map(|i| {
                let bias = self.biases[i];
                self.weights[i].0.iter().map(move |(matrix, first)| (i, matrix, *first, bias))
            })
            .map(|(i, matrix, first, bias)| Part {
                matrix,
                bias: bias.map(|bias| bias + first as u32),
                column: columns[i] + first,
            })
            .collect();
        for parts in parts.chunks(3) {
            writer.builder.product(&Product { parts, ..product })?;
        }
        let [q_norm, k_norm, v_norm] = self.norms;
        if mixer.norms_whole {
            writer.in_place((&qkv, 0), heads.q(), q_norm)?;
            if mixer.kv.is_some() {
                writer.in_place((&qkv, columns[1]), heads.kv(), k_norm)?;
            }
        }
        // Values may be the products of keys.
        let kv = mixer.kv.as_ref().map(|_| [columns[1], *columns.last().unwrap_or(&0)]);
        let of_heads = |norm| if mixer.norms_whole { None } else { norm };
        let (kept, cache) = self.cache;
        let rope = mixer.rope.map(|index| writer.angles.of(index));
        let chunks = partials(heads.n_heads, heads.head_dim);
        writer.builder.attention(&GpuAttention {
            heads: heads.n_heads,
            kept,
            cache,
            qkv: &qkv,
            kv,
            gated: mixer.gated,
            norms: [of_heads(q_norm), of_heads(k_norm), v_norm],
            norms_last: mixer.norms_last,
            rope: rope.map(|(pairs, first, style)| (pairs, first, style == RopeStyle::Halves)),
            angles: &writer.buffers.rows("angles", writer.angles.width)?,
            scale: heads.scale,
            cap: heads.cap,
            window: heads.window,
            sinks: self.sinks,
            temperature: mixer.temperature.map(|t| (t.beta, t.step)),
            out: &attended,
            partials: &writer.buffers.get("partials", 1, chunks)?,
            vectors,
        })?;
        writer.in_place((&attended, 0), heads.q(), self.output_norm)?;
        let last = linears.len();
        let product = Product { input: &attended, norm: None, pending: None, ..product };
        writer.residual(&self.weights[last], self.biases[last], &product, target)
    }
}

impl BoundDense<'_> {
    fn write(&self, writer: &mut Writer<'_>, input: Input<'_>, target: &Target) -> Result<()> {
        let mixer = self.mixer;
        let made = writer.buffers.rows("ffn", mixer.ffn)?;
        let gates = writer.buffers.rows("gates", 4)?;
        let vectors = writer.vectors;
        let up = mixer.up.linears().len();
        let mut product = Product {
            parts: &[],
            input: &input.from,
            norm: input.norm,
            pending: input.pending,
            out: &made,
            kind: Kind::Store { scale: 1.0, act: Some(mixer.act) },
            count: Count::Pass,
            row_factor: None,
            vectors,
        };
        match mixer.up {
            Up::Gated(_) => {
                let part = |i: usize| {
                    let (matrix, column) = &self.weights[i].0[0];
                    Part { matrix, bias: self.biases[i], column: *column }
                };
                let parts = [part(0), part(1)];
                let kind = Kind::Gated(mixer.act);
                writer.builder.product(&Product { parts: &parts, kind, ..product })?;
            }
            Up::Plain(_) => writer.product(&self.weights[0], self.biases[0], &product)?,
            Up::Sparse(..) => unreachable!("sparse layers stay on the CPU"),
        }
        if mixer.gate.is_some() {
            let kind = Kind::Store { scale: 1.0, act: Some(Nonlinearity::Sigmoid) };
            let product = Product { out: &gates, kind, ..product };
            writer.product(&self.weights[up + 1], None, &product)?;
        }
        writer.in_place((&made, 0), mixer.ffn, self.down_norm)?;
        product = Product { input: &made, norm: None, pending: None, ..product };
        product.row_factor = mixer.gate.as_ref().map(|_| &gates);
        writer.residual(&self.weights[up], self.biases[up], &product, target)
    }
}

impl BoundExperts<'_> {
    fn write(&self, writer: &mut Writer<'_>, input: Input<'_>, target: &Target) -> Result<()> {
        let mixer = self.mixer;
        let (buffers, vectors) = (writer.buffers, writer.vectors);
        let scores = buffers.rows("scores", mixer.count)?;
        let choices = buffers.rows("choices", 2 * mixer.used)?;
        let made = buffers.get("experts", ROWS * mixer.used, mixer.ffn)?;
        // What the router reads, where that is not what the experts read.
        let own = match self.router_norm {
            Some(norm) => {
                let normed = buffers.rows("router input", writer.spec.hidden)?;
                let from = writer.stream();
                writer.step(&from, &normed, Some(norm), (0.0, 1.0, 1.0))?;
                Some(normed)
            }
            None => None,
        };
        let product = Product {
            parts: &[],
            input: own.as_ref().unwrap_or(&input.from),
            norm: None,
            pending: None,
            out: &scores,
            kind: Kind::Store { scale: mixer.router_scale, act: None },
            count: Count::Pass,
            row_factor: None,
            vectors,
        };
        writer.product(&self.weights[0], self.router_bias, &product)?;
        let selection = mixer.selection;
        writer.builder.choose(&Choose {
            scores: &scores,
            score_scale: 1.0,
            count: mixer.count,
            used: mixer.used,
            sigmoid: selection.scores == Scores::Sigmoid,
            groups: selection.groups.map(|g| (g.count, g.used, g.ranked_by == RankedBy::BestTwo)),
            renormalise: selection.renormalise,
            scale: selection.scale,
            bias: self.choice_bias,
            vectors,
            choices: &choices,
        })?;
        let bank: Vec<_> = self.weights[1..]
            .chunks_exact(3)
            .map(|three| std::array::from_fn(|i| three[i].0[0].0.clone()))
            .collect();
        Ok(writer.builder.experts(&GpuExperts {
            bank: &bank,
            biases: self.biases,
            used: mixer.used,
            gating: match mixer.gating {
                crate::spec::Gating::By(act) => Gating::By(act),
                crate::spec::Gating::Clamped { limit } => Gating::Clamped(limit),
            },
            input: &input.from,
            made: &made,
            out: &target.to,
            scale: target.adds.unwrap_or(1.0),
            adds: target.adds.is_some(),
            choices: &choices,
            vectors,
        })?)
    }
}
