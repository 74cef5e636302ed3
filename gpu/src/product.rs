//! Products of rows with matrices, and what is done with them.

use goldcrest_kernels::{Format, Nonlinearity, PANEL_ROWS};

use crate::error::Result;
use crate::memory::{Floats, Matrix};
use crate::norm::Norm;
use crate::pipelines::Use;
use crate::plan::{Binding, Builder, Class, Count, Grid, Tiles};
use crate::quantise::Row;
use crate::run::Io;
use crate::shaders::{
    ACTIVATIONS, Codes, MATVEC, NUMBERS, Names, PRODUCT, QUANTISE, TILE, TILE_MATRIX, decoder, dot,
};

/// Panels from which on a workgroup of few rows has two.
const MANY_PANELS: usize = 256;

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

/// The formats of a product's matrices, each once.
pub(crate) struct Formats(Vec<Format>);

impl Formats {
    pub(crate) fn of(matrices: &[&Matrix]) -> Self {
        let mut all: Vec<Format> = Vec::new();
        for matrix in matrices {
            if !all.contains(&matrix.format) {
                all.push(matrix.format);
            }
        }
        Self(all)
    }

    fn each(&self) -> impl Iterator<Item = (Format, &'static str)> {
        self.0.iter().copied().zip(["A", "B", "C"])
    }

    /// What decodes them.
    pub(crate) fn decoders(&self, codes: Codes) -> String {
        self.each().map(|(format, suffix)| decoder(format, suffix, codes)).collect()
    }

    /// Statements, one of which is run by the number of a format; `other` follows where none was.
    fn pick(&self, statement: impl Fn(&str) -> String, other: &str) -> String {
        if self.0.len() == 1 {
            return statement("A");
        }
        let cases = self.each().enumerate();
        let cases = cases.map(|(i, (_, f))| format!("case {i}u: {{ {} }}", statement(f)));
        let cases: Vec<_> = cases.collect();
        format!("switch format {{ {} default: {{}} }} {other}", cases.join(" "))
    }

    /// Names for kernels that multiply whole rows of a panel.
    pub(crate) fn dots(&self, names: &Names, codes: Codes) -> Names {
        let dots = self.each().map(|(format, suffix)| dot(format, suffix, names, codes));
        let choose = self.pick(|f| format!("own = dot_{f}(panel, q, slot, first);"), "");
        names.clone().set("DOTS", dots.collect::<String>()).set("CHOOSE", choose)
    }

    /// Names for kernels that decode blocks.
    fn decode(&self, names: &Names) -> Names {
        let zero = "mat4x4(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0))";
        let decode = self.pick(
            |f| format!("return scaled(pair_{f}(panel, q, b, j), scales_{f}(panel, q, b));"),
            &format!("return Decoded({zero}, {zero});"),
        );
        names.clone().set("DECODE", decode)
    }
}

/// The words of a [`Part`] in a kernel's parameters.
pub(crate) fn part_words(
    matrix: &Matrix,
    formats: &Formats,
    (first, column, bias): (u32, u32, u32),
) -> [u32; 8] {
    let format = formats.0.iter().position(|&format| format == matrix.format).unwrap_or(0);
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
    /// Adds a product. Parts in different buffers, and in tiles of single precision all parts but those
    /// of a gate, are dispatches of their own.
    ///
    /// # Errors
    /// What the driver says against it.
    ///
    /// # Panics
    /// If a norm or what is pending is part of a product in a plan of more than one row.
    pub fn product(&mut self, product: &Product<'_>) -> Result<()> {
        let gated = matches!(product.kind, Kind::Gated(_));
        let together = self.class != Class::Many || self.tiles != Tiles::Single;
        if gated || (together && one_buffer(product.parts)) {
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
        assert!(self.class == Class::One || product.norm.is_none(), "norms of many rows are steps");
        match self.class {
            Class::Many => self.tile(product),
            _ => self.matvec(product),
        }
    }

    /// A product of few rows.
    fn matvec(&mut self, product: &Product<'_>) -> Result<()> {
        let m = if self.class == Class::One { 1 } else { 4 };
        let gated = matches!(product.kind, Kind::Gated(_));
        let k = product.parts[0].matrix.k;
        let panels = product.panels();
        let most = self.device.info().threads as usize;
        let (lanes, at_once) = shares(k, panels, most);
        let row = Row::of(product, self.device.info(), lanes * at_once * m);
        let row = if self.class == Class::One { row } else { row.read() };
        // Numbers are read once for each panel.
        let at_once = if row == Row::Numbers { 1 } else { at_once };
        let threads = lanes * at_once;
        // A norm that is but a factor is applied to the sums.
        let scaled = product.scales();
        let names = product
            .names()
            .set("M", m)
            .set("THREADS", threads)
            .set("LANES", lanes)
            .set("SLOTS", lanes / 4)
            .set("SUMS", threads * m * if gated { 2 } else { 1 })
            .set("ROW", k.div_ceil(4))
            .set("BLOCKS", k.div_ceil(32))
            .set("CODES", k.div_ceil(32) * 8)
            .flag("STAGED", product.norm.is_some() && !scaled)
            .flag("SCALED", scaled)
            .flag("BYTES_MADE", row == Row::Made)
            .flag("BYTES_READ", row == Row::Read);
        let matrices: Vec<_> = product.parts.iter().map(|part| part.matrix).collect();
        let formats = Formats::of(&matrices);
        let names = formats.dots(&names, row.codes());
        let decoders = formats.decoders(row.codes());
        let words = product.words(&formats, 1);
        let mut bindings = product.bindings(self.io);
        let bytes = match row {
            Row::Read => Some(self.rows_to_bytes(product.input, k, product.count)?),
            _ => None,
        };
        if let Some((codes, scales)) = &bytes {
            bindings.push(Binding::read(12, &codes.buffer));
            bindings.push(Binding::read(13, &scales.buffer));
        }
        let x = if gated { panels / 2 } else { panels }.div_ceil(at_once) as u32;
        let grid = Grid::Rows { x, per: m as u32, times: 1, count: product.count };
        let text = [PRODUCT, ACTIVATIONS, NUMBERS, QUANTISE, &decoders, MATVEC];
        self.step((&text, &names), &words, &bindings, (product.name(), grid, None, product.work()))
    }

    /// A product of many rows.
    fn tile(&mut self, product: &Product<'_>) -> Result<()> {
        if self.tiles == Tiles::Single {
            let names = product.names();
            return self.tile_of(product, &names, ("", TILE), (64, 64));
        }
        let large = self.device.info().has_large_tiles();
        self.matrix_tile(product, [64, 64])?;
        if large {
            self.matrix_tile(product, [128, 128])?;
            self.join(64);
        }
        Ok(())
    }

    /// A tile of so many rows and columns.
    fn matrix_tile(&mut self, product: &Product<'_>, [rows, columns]: [usize; 2]) -> Result<()> {
        let own_rows = rows / 2;
        let threads = 2 * columns / 32 * 32;
        let k = product.parts[0].matrix.k;
        let names = product
            .names()
            .set("TILE_ROWS", rows)
            .set("TILE_COLUMNS", columns)
            .set("OWN_ROWS", own_rows)
            .set("OWN_TILES", own_rows / 16)
            .set("THREADS", threads)
            .set("BLOCKS", k.div_ceil(32))
            .set("WEIGHTS", columns * 18)
            .set("ROWS", rows * 18)
            .set("MADE", threads * 8)
            .set("READS", rows * 16 / threads)
            .flag("RAGGED", !k.is_multiple_of(64))
            .flag("PLAIN", self.tiles == Tiles::MatricesInLoops);
        let head = match self.tiles {
            Tiles::Matrices => "enable f16;\nenable wgpu_cooperative_matrix;\n",
            _ => "enable f16;\n",
        };
        self.tile_of(product, &names, (head, TILE_MATRIX), (rows, columns))
    }

    fn tile_of(
        &mut self,
        product: &Product<'_>,
        names: &Names,
        (head, body): (&str, &str),
        (rows, columns): (usize, usize),
    ) -> Result<()> {
        let matrices: Vec<_> = product.parts.iter().map(|part| part.matrix).collect();
        let formats = Formats::of(&matrices);
        let names = formats.decode(names);
        let decoders = formats.decoders(Codes::Numbers);
        let panels = columns / PANEL_ROWS;
        let words = product.words(&formats, panels);
        let tiles = |part: &Part<'_>| part.matrix.rows.div_ceil(columns);
        let x = match product.kind {
            Kind::Gated(_) => product.parts[0].matrix.rows.div_ceil(columns / 2),
            _ => product.parts.iter().map(tiles).sum(),
        };
        let text = [head, PRODUCT, ACTIVATIONS, NUMBERS, &decoders, body];
        let grid = Grid::Rows { x: x as u32, per: rows as u32, times: 1, count: product.count };
        let bindings = product.bindings(self.io);
        self.step((&text, &names), &words, &bindings, (product.name(), grid, None, product.work()))
    }
}

/// Threads of a panel, and panels of a workgroup, which together are at most `most` threads: a row that
/// a workgroup makes ready serves two panels where there are many.
fn shares(k: usize, panels: usize, most: usize) -> (usize, usize) {
    let at_once = if panels >= MANY_PANELS { 2 } else { 1 };
    (threads(k).min(most / at_once), at_once)
}

impl<'a> Product<'a> {
    /// Whether its norm is but a factor on the sums, and weights.
    pub(crate) fn scales(&self) -> bool {
        self.pending.is_none() && self.norm.is_some_and(|n| !n.centred && n.bias.is_none())
    }

    fn panels(&self) -> usize {
        self.parts.iter().map(|part| part.matrix.rows.div_ceil(PANEL_ROWS)).sum()
    }

    fn name(&self) -> String {
        let k = self.parts[0].matrix.k;
        let part = |part: &Part<'_>| format!("{} {}", part.matrix.format, part.matrix.rows);
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        let gate = if matches!(self.kind, Kind::Gated(_)) { ", gated" } else { "" };
        format!("{} x {k}{gate}", parts.join(" + "))
    }

    /// Multiplications for each row.
    fn work(&self) -> u64 {
        self.parts.iter().map(|part| (part.matrix.rows * part.matrix.k) as u64).sum()
    }

    /// Names that all kernels of products know.
    fn names(&self) -> Names {
        Names::default()
            .flag("CENTRED", self.norm.is_some_and(|norm| norm.centred))
            .flag("PENDING", self.pending.is_some())
            .flag("ADD", matches!(self.kind, Kind::Add { .. }))
            .flag("CAP", matches!(self.kind, Kind::Capped { .. }))
            .flag("GATED", matches!(self.kind, Kind::Gated(_)))
            .flag("ROW_FACTOR", self.row_factor.is_some())
    }

    /// The parameters of a kernel that takes so many panels of a part at a time.
    fn words(&self, formats: &Formats, at_once: usize) -> Vec<u32> {
        let (scale, act, cap) = match self.kind {
            Kind::Store { scale, act } => (scale, act_code(act), 0.0),
            Kind::Capped { scale, cap } => (scale, act_code(None), cap),
            Kind::Add { scale } => (scale, 0, 0.0),
            Kind::Gated(act) => (1.0, act_code(Some(act)), 0.0),
        };
        let head = Head {
            k: self.parts[0].matrix.k,
            x_stride: self.input.stride,
            out_stride: self.out.stride,
            count: self.count,
            scale,
            act,
            limit: 0.0,
            cap,
            used: 0,
            row_factor: self.row_factor.map_or(0, |factors| factors.stride),
            factors: 0,
        };
        let mut words = head.words(self.parts.len(), self.norm, self.pending.as_ref());
        let gated = matches!(self.kind, Kind::Gated(_));
        let mut first = 0;
        for part in self.parts {
            let place =
                (if gated { 0 } else { first }, part.column as u32, part.bias.unwrap_or(NONE));
            words.extend(part_words(part.matrix, formats, place));
            first += part.matrix.rows.div_ceil(PANEL_ROWS).div_ceil(at_once) as u32;
        }
        words.resize(20 + 3 * 8, 0);
        words
    }

    fn bindings(&self, io: &'a Io) -> Vec<Binding<'a>> {
        let mut bindings = vec![
            Binding::read(1, &self.parts[0].matrix.weights.buffer),
            Binding::read(2, &self.input.buffer),
            Binding::write(3, &self.out.buffer),
            Binding::read(4, &self.vectors.buffer),
            Binding { at: 5, used: Use::Uniform, buffer: &io.counts },
        ];
        if let Some(pending) = &self.pending {
            bindings.push(Binding::read(6, &pending.mixed.buffer));
            bindings.push(Binding::write(7, &pending.to.buffer));
        }
        if self.scales() {
            bindings.push(Binding::read(11, &self.vectors.buffer));
        }
        if let Some(factors) = self.row_factor {
            bindings.push(Binding::read(10, &factors.buffer));
        }
        bindings
    }
}

fn one_buffer(parts: &[Part<'_>]) -> bool {
    parts.iter().all(|part| part.matrix.weights.buffer == parts[0].matrix.weights.buffer)
}
