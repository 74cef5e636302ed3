//! Products of rows with matrices, and what is done with them.

use goldcrest_kernels::{Format, Nonlinearity, PANEL_ROWS};

use crate::error::Result;
use crate::memory::{Floats, Matrix};
use crate::norm::Norm;
use crate::pipelines::Use;
use crate::plan::{Binding, Builder, Class, Count, Grid, Tiles};
use crate::shaders::{
    ACTIVATIONS, DOT, MATVEC, NUMBERS, Names, PRODUCT, TILE, TILE_MATRIX, decoder,
};

/// In the place of an offset: there is none.
pub(crate) const NONE: u32 = u32::MAX;

/// One of the matrices of a product.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// The matrix.
    pub matrix: &'a Matrix,
    /// Where its bias begins among the vectors.
    pub bias: Option<u32>,
    /// The first column of the output.
    pub column: usize,
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Written: `act(scale * x)`.
    Store {
        /// On the product.
        scale: f32,
        /// None for the product itself.
        act: Option<Nonlinearity>,
    },
    /// Written: `cap tanh(scale * x / cap)`.
    Capped {
        /// On the product.
        scale: f32,
        /// The most it can be.
        cap: f32,
    },
    /// Added to what is there: `scale * x`.
    Add {
        /// On the product.
        scale: f32,
    },
    /// Of two parts, `act(first) * second`.
    Gated(Nonlinearity),
}

/// What was made and not yet added to the rows that a product reads:
/// `x = (x + mix * norm(mixed)) * scale`, which is written to `to`.
#[derive(Debug, Clone, Copy)]
pub struct Pending<'a> {
    /// Rows as wide as the input.
    pub mixed: &'a Floats,
    /// Of those.
    pub norm: Norm,
    /// On what is added.
    pub mix: f32,
    /// On the sum.
    pub scale: f32,
    /// Where the sum goes: not the input itself.
    pub to: &'a Floats,
}

/// A product.
#[derive(Debug, Clone, Copy)]
pub struct Product<'a> {
    /// One to three matrices that read the same rows.
    pub parts: &'a [Part<'a>],
    /// Rows of the width that the matrices read.
    pub input: &'a Floats,
    /// Of the input. Where it is part of the product, there is one row.
    pub norm: Option<Norm>,
    /// Before the norm.
    pub pending: Option<Pending<'a>>,
    /// Where the products go.
    pub out: &'a Floats,
    /// What becomes of them.
    pub kind: Kind,
    /// Which rows.
    pub count: Count,
    /// A number for each row, its first of so many, that products are multiplied with.
    pub row_factor: Option<&'a Floats>,
    /// Biases and norms.
    pub vectors: &'a Floats,
}

pub(crate) fn act_code(act: Option<Nonlinearity>) -> u32 {
    match act {
        Some(Nonlinearity::Silu) => 0,
        Some(Nonlinearity::GeluTanh) => 1,
        Some(Nonlinearity::GeluErf) => 2,
        Some(Nonlinearity::Sigmoid) => 3,
        Some(Nonlinearity::ReluSquared) => 4,
        None => 5,
    }
}

/// Threads of a workgroup that multiplies a few rows: a multiple of four, each with blocks of its own.
pub(crate) fn threads(k: usize) -> usize {
    match k.div_ceil(32) {
        0..=16 => 64,
        17..=64 => 128,
        _ => 256,
    }
}

/// The parts of a kernel that depend on formats.
pub(crate) fn formats(matrices: &[&Matrix], names: &Names) -> (Vec<Format>, String, Names) {
    let mut all: Vec<Format> = Vec::new();
    for matrix in matrices {
        if !all.contains(&matrix.format) {
            all.push(matrix.format);
        }
    }
    let suffix = |i: usize| ["A", "B", "C"][i];
    let decoders = all.iter().enumerate().map(|(i, &format)| decoder(format, suffix(i))).collect();
    let dots = (0..all.len()).map(|i| names.clone().set("F", suffix(i)).expand(DOT));
    let dots: String = dots.collect();
    let pick = |call: &dyn Fn(&str) -> String| {
        let cases = (0..all.len()).map(|i| format!("case {i}u: {{ {} }}", call(suffix(i))));
        format!("switch format {{ {} default: {{}} }}", cases.collect::<Vec<_>>().join(" "))
    };
    let choose = match all.len() {
        1 => "own = dot_A(panel, q, slot, first);".to_owned(),
        _ => pick(&|f| format!("own = dot_{f}(panel, q, slot, first);")),
    };
    let decode = match all.len() {
        1 => "return scaled(pair_A(panel, q, b, j), scales_A(panel, q, b));".to_owned(),
        _ => {
            let choose = pick(&|f| {
                format!("return scaled(pair_{f}(panel, q, b, j), scales_{f}(panel, q, b));")
            });
            let zero = "mat4x4(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0))";
            format!("{choose} return Decoded({zero}, {zero});")
        }
    };
    let names = names.clone().set("DOTS", dots).set("CHOOSE", choose).set("DECODE", decode);
    (all, decoders, names)
}

/// The words of a [`Part`] in a kernel's parameters.
pub(crate) fn part_words(
    matrix: &Matrix,
    formats: &[Format],
    (first, column, bias): (u32, u32, u32),
) -> [u32; 8] {
    let format = formats.iter().position(|&format| format == matrix.format).unwrap_or(0);
    [
        (matrix.at / 16) as u32,
        (matrix.stride / 16) as u32,
        matrix.rows as u32,
        first,
        column,
        bias,
        matrix.factor.to_bits(),
        format as u32,
    ]
}

/// Words of the parameters before the parts.
pub(crate) struct Head {
    pub(crate) k: usize,
    pub(crate) x_stride: usize,
    pub(crate) out_stride: usize,
    pub(crate) count: Count,
    pub(crate) scale: f32,
    pub(crate) act: u32,
    pub(crate) limit: f32,
    pub(crate) cap: f32,
    pub(crate) used: usize,
    pub(crate) row_factor: usize,
    /// Where factors are in the bank of experts.
    pub(crate) factors: usize,
}

impl Head {
    pub(crate) fn words(
        &self,
        parts: usize,
        norm: Option<Norm>,
        pending: Option<&Pending<'_>>,
    ) -> Vec<u32> {
        let norm = norm.unwrap_or_default();
        let post = pending.map_or(Norm::default(), |pending| pending.norm);
        vec![
            self.k as u32,
            (self.x_stride / 4) as u32,
            self.out_stride as u32,
            u32::from(self.count == Count::Wanted),
            self.scale.to_bits(),
            self.act,
            self.limit.to_bits(),
            parts as u32,
            norm.weight,
            norm.bias.unwrap_or(NONE),
            norm.eps.to_bits(),
            post.weight,
            post.eps.to_bits(),
            pending.map_or(0.0, |pending| pending.mix).to_bits(),
            pending.map_or(1.0, |pending| pending.scale).to_bits(),
            self.cap.to_bits(),
            self.used as u32,
            self.row_factor as u32,
            self.factors as u32,
            0,
        ]
    }
}

impl Builder<'_> {
    /// Adds a product. Parts in different buffers, and in a plan of many rows all parts but those of
    /// a gate, are dispatches of their own.
    ///
    /// # Errors
    /// What the driver says against it.
    ///
    /// # Panics
    /// If a norm or what is pending is part of a product in a plan of more than one row.
    pub fn product(&mut self, product: &Product<'_>) -> Result<()> {
        let gated = matches!(product.kind, Kind::Gated(_));
        if gated || (self.class != Class::Many && one_buffer(product.parts)) {
            return self.product_of(product);
        }
        assert!(
            product.pending.is_none() || product.parts.len() == 1,
            "what is pending is added once"
        );
        for part in product.parts {
            self.product_of(&Product { parts: std::slice::from_ref(part), ..*product })?;
        }
        Ok(())
    }

    fn product_of(&mut self, product: &Product<'_>) -> Result<()> {
        let Product { parts, input, out, norm, pending, count, .. } = *product;
        let (scale, act, cap) = match product.kind {
            Kind::Store { scale, act } => (scale, act_code(act), 0.0),
            Kind::Capped { scale, cap } => (scale, act_code(None), cap),
            Kind::Add { scale } => (scale, 0, 0.0),
            Kind::Gated(act) => (1.0, act_code(Some(act)), 0.0),
        };
        let k = parts[0].matrix.k;
        let tiles = self.class == Class::Many;
        assert!(self.class == Class::One || norm.is_none(), "norms of many rows are steps");
        let gated = matches!(product.kind, Kind::Gated(_));
        let m = if self.class == Class::One { 1 } else { 4 };
        let threads = threads(k);
        // A norm that is but a factor is applied to the sums.
        let scaled = pending.is_none() && norm.is_some_and(|n| !n.centred && n.bias.is_none());
        let names = Names::default()
            .set("M", m)
            .set("THREADS", threads)
            .set("SLOTS", threads / 4)
            .set("SUMS", threads * m * if gated { 2 } else { 1 })
            .set("ROW", k.div_ceil(4))
            .flag("STAGED", norm.is_some() && !scaled)
            .flag("SCALED", scaled)
            .flag("CENTRED", norm.is_some_and(|norm| norm.centred))
            .flag("PENDING", pending.is_some())
            .flag("ADD", matches!(product.kind, Kind::Add { .. }))
            .flag("CAP", matches!(product.kind, Kind::Capped { .. }))
            .flag("GATED", gated)
            .flag("PLAIN", self.tiles == Tiles::MatricesInLoops)
            .flag("ROW_FACTOR", product.row_factor.is_some());
        let matrices: Vec<_> = parts.iter().map(|part| part.matrix).collect();
        let (formats, decoders, names) = formats(&matrices, &names);
        let row_factor = product.row_factor.map_or(0, |factors| factors.stride);
        let head = Head {
            k,
            x_stride: input.stride,
            out_stride: out.stride,
            count,
            scale,
            act,
            limit: 0.0,
            cap,
            used: 0,
            row_factor,
            factors: 0,
        };
        let mut words = head.words(parts.len(), norm, pending.as_ref());
        let (mut first, mut work) = (0, 0);
        for part in parts {
            let matrix = part.matrix;
            let place =
                (if gated { 0 } else { first }, part.column as u32, part.bias.unwrap_or(NONE));
            words.extend(part_words(matrix, &formats, place));
            first += matrix.rows.div_ceil(PANEL_ROWS) as u32;
            work += (matrix.rows * matrix.k) as u64;
        }
        words.resize(20 + 3 * 8, 0);
        let panels = if gated { first / 2 } else { first };
        let x = if tiles { panels.div_ceil(if gated { 2 } else { 4 }) } else { panels };
        let per = if tiles { 64 } else { m as u32 };
        let mut bindings = vec![
            Binding::read(1, &parts[0].matrix.weights.buffer),
            Binding::read(2, &input.buffer),
            Binding::write(3, &out.buffer),
            Binding::read(4, &product.vectors.buffer),
            Binding { at: 5, used: Use::Uniform, buffer: &self.io.counts },
        ];
        if let Some(pending) = &pending {
            bindings.push(Binding::read(6, &pending.mixed.buffer));
            bindings.push(Binding::write(7, &pending.to.buffer));
        }
        if scaled {
            bindings.push(Binding::read(11, &product.vectors.buffer));
        }
        if let Some(factors) = product.row_factor {
            bindings.push(Binding::read(10, &factors.buffer));
        }
        let (head, body) = match self.tiles {
            _ if !tiles => ("", MATVEC),
            Tiles::Single => ("", TILE),
            Tiles::Matrices => ("enable f16;\nenable wgpu_cooperative_matrix;\n", TILE_MATRIX),
            Tiles::MatricesInLoops => ("enable f16;\n", TILE_MATRIX),
        };
        let text = [head, PRODUCT, ACTIVATIONS, NUMBERS, &decoders, body];
        let grid = Grid::Rows { x, per, times: 1, count };
        self.step((&text, &names), &words, &bindings, (grid, None, work))
    }
}

fn one_buffer(parts: &[Part<'_>]) -> bool {
    parts.iter().all(|part| part.matrix.weights.buffer == parts[0].matrix.weights.buffer)
}
