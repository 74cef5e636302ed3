//! Attention over keys and values on the device.

use crate::cache::{CacheLayout, KvFormat};
use crate::error::Result;
use crate::memory::Floats;
use crate::plan::{Binding, Builder, Class, Grid, Tiles};
use crate::product::NONE;
use crate::shaders::{ATTEND, ATTEND_MATRIX, ATTEND_ONE, ATTENTION, MERGE, Names, STORE};

/// Threads of a workgroup.
const THREADS: usize = 128;
/// Numbers of queries that a workgroup keeps.
const QUERIES: usize = 2048;
/// Pairs that a thread of a lone row's attention asks for before it waits.
const AT_ONCE: usize = 4;
/// Positions that are scored at a time for a lone row.
const ONE_TILE: usize = 64;

/// A norm over each head.
pub type HeadNorm = crate::norm::Norm;

/// One block's attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Query heads.
    pub heads: usize,
    /// Where its keys and values are in a [`Cache`](crate::Cache), and how they lie.
    pub kept: usize,
    /// How they lie.
    pub cache: CacheLayout,
    /// Rows of queries, keys and values, and the columns where each begin; no keys and values where
    /// those of an earlier block are attended to.
    pub qkv: &'a Floats,
    /// The column of the keys, and of the values.
    pub kv: Option<[usize; 2]>,
    /// Whether a gate follows each query.
    pub gated: bool,
    /// Of queries, keys and values.
    pub norms: [Option<HeadNorm>; 3],
    /// Whether norms come after the rotation.
    pub norms_last: bool,
    /// Pairs that are rotated, where their angles begin in a row, and whether the two of a pair are
    /// that far apart instead of side by side.
    pub rope: Option<(usize, usize, bool)>,
    /// Cosines and sines of each row.
    pub angles: &'a Floats,
    /// On the products of queries and keys.
    pub scale: f32,
    /// `cap tanh(x / cap)` of those.
    pub cap: Option<f32>,
    /// Positions that a row sees.
    pub window: Option<usize>,
    /// Where a score of each head that no position has begins.
    pub sinks: Option<u32>,
    /// `1 + beta ln(1 + floor(position / step))` on queries.
    pub temperature: Option<(f32, usize)>,
    /// Where what is attended to goes.
    pub out: &'a Floats,
    /// Chunks of a row.
    pub partials: &'a Floats,
    /// Norms and sinks.
    pub vectors: &'a Floats,
}

impl Attention<'_> {
    fn words(&self) -> Vec<u32> {
        let group = self.heads / self.cache.heads;
        let step = self.cache.head_dim * if self.gated { 2 } else { 1 };
        let [k, v] = self.kv.unwrap_or([0, 0]);
        let (rotated, angles, apart) = self.rope.unwrap_or((0, 0, false));
        let (beta, temperature_step) = self.temperature.unwrap_or((0.0, 1));
        let mut words = vec![
            self.heads as u32,
            self.cache.heads as u32,
            group as u32,
            self.qkv.stride as u32,
            0,
            step as u32,
            k as u32,
            v as u32,
            self.scale.to_bits(),
            self.cap.unwrap_or(0.0).to_bits(),
            self.window.map_or(u32::MAX, |window| window as u32),
            self.sinks.unwrap_or(NONE),
            rotated as u32,
            angles as u32,
            self.angles.stride as u32,
            apart.into(),
            self.norms_last.into(),
            self.gated.into(),
            beta.to_bits(),
            temperature_step as u32,
            self.out.stride as u32,
            self.kv.is_some().into(),
            0,
            0,
        ];
        for norm in self.norms {
            let norm = norm.unwrap_or(HeadNorm { weight: NONE, ..HeadNorm::default() });
            let bias = norm.bias.unwrap_or(NONE);
            words.extend([norm.weight, bias, norm.eps.to_bits(), norm.centred.into()]);
        }
        words
    }

    /// Names that all kernels of attention know: `heads` lie in shared memory, of which `lanes` threads
    /// share one.
    fn names(&self, threads: usize, heads: usize, lanes: usize) -> Names {
        let half = self.cache.format == KvFormat::F16;
        Names::default()
            .set("D", self.cache.head_dim)
            .set("THREADS", threads)
            .set("HEADS", heads)
            .set("ROOM", heads * self.cache.head_dim)
            .set("LANES", lanes)
            .set("CELL", if half { "u32" } else { "vec2<f32>" })
            .flag("HALF", half)
    }
}

/// What a workgroup that attends by cooperative matrices keeps: vectors of four half floats of queries and
/// of keys or values, scores, and vectors of shares.
fn matrix_rooms(head_dim: usize, subgroups: usize) -> [usize; 4] {
    let stride = head_dim / 4 + 2;
    [16 * subgroups * stride, 32 * stride, 512 * subgroups, 160 * subgroups]
}

impl Builder<'_> {
    /// Adds attention. In a plan of single rows one kernel makes queries, keys and values ready and
    /// attends; in others a kernel before it does.
    ///
    /// # Errors
    /// What the driver says against it.
    pub fn attention(&mut self, attention: &Attention<'_>) -> Result<()> {
        let alone = self.class != Class::Many;
        let heads = attention.heads as u32;
        if !alone {
            let kv = if attention.kv.is_some() { 2 * attention.cache.heads as u32 } else { 0 };
            let names = attention.names(64, 1, 64);
            let grid = Grid::Store { x: heads + kv };
            self.attention_step(attention, (&[ATTENTION, STORE], &names), grid)?;
            self.attend(attention)?;
        }
        if alone {
            self.attend_one(attention)?;
            let names = attention.names(64, 1, 64);
            let grid = Grid::Merge { x: heads };
            self.attention_step(attention, (&[ATTENTION, MERGE], &names), grid)?;
        }
        Ok(())
    }

    /// Many rows: a workgroup has R queries, of whichever rows.
    fn attend(&mut self, attention: &Attention<'_>) -> Result<()> {
        let d = attention.cache.head_dim;
        if let Some(subgroups) = self.subgroups_of_matrices(attention.cache) {
            return self.attend_by_matrices(attention, subgroups);
        }
        let r = (QUERIES / d).clamp(1, 16);
        let names = attention.names(THREADS, r, 8).set("SCORES", 32 * r).set("QN", r.div_ceil(4));
        self.attend_with(attention, (&[ATTENTION, ATTEND], names), r, r)
    }

    /// Subgroups of a workgroup that attends by cooperative matrices, where it can: of half floats, of
    /// heads that are whole matrices wide, and as shared memory allows.
    fn subgroups_of_matrices(&self, cache: CacheLayout) -> Option<usize> {
        let halves = cache.format == KvFormat::F16 && cache.head_dim.is_multiple_of(16);
        let fits = |subgroups: &usize| {
            let [queries, others, scores, shares] = matrix_rooms(cache.head_dim, *subgroups);
            let bytes = 8 * (queries + others + shares) + 4 * scores + 128 * subgroups;
            bytes <= self.device.info().shared_memory as usize
        };
        let usable = halves && self.tiles != Tiles::Single;
        [4, 2].into_iter().filter(|_| usable).find(fits)
    }

    fn attend_by_matrices(&mut self, attention: &Attention<'_>, subgroups: usize) -> Result<()> {
        let d = attention.cache.head_dim;
        let [queries, others, scores, shares] = matrix_rooms(d, subgroups);
        let names = attention
            .names(32 * subgroups, 1, 8)
            .set("SUBGROUPS", subgroups)
            .set("TILES", d / 16)
            .set("QUERY_ROOM", queries)
            .set("OTHER_ROOM", others)
            .set("SCORES", scores)
            .set("SHARES", shares)
            .flag("PLAIN", self.tiles == Tiles::MatricesInLoops);
        let head = match self.tiles {
            Tiles::Matrices => "enable f16;\nenable wgpu_cooperative_matrix;\n",
            _ => "enable f16;\n",
        };
        let (kv_heads, group) = (attention.cache.heads, attention.heads / attention.cache.heads);
        let r = 16 * subgroups as u32;
        let grid = Grid::Attend { kv_heads: kv_heads as u32, group: group as u32, r };
        self.attention_step(attention, (&[head, ATTENTION, ATTEND_MATRIX], &names), grid)
    }

    /// Single rows: R of the queries that share keys, and a chunk of the positions.
    fn attend_one(&mut self, attention: &Attention<'_>) -> Result<()> {
        let (d, group) = (attention.cache.head_dim, attention.heads / attention.cache.heads);
        let r = (QUERIES / 2 / d).clamp(1, 8).min(group.next_power_of_two());
        let names = attention
            .names(THREADS, r + 2, 8)
            .set("SHARE", THREADS / r)
            .set("U", AT_ONCE)
            .set("SCORES", 2 * ONE_TILE * r);
        self.attend_with(attention, (&[ATTENTION, ATTEND_ONE], names), r, THREADS)
    }

    /// Sets how sums over values are shared: whole groups of threads for a query's pairs, `most` of them,
    /// or more pairs than threads.
    fn attend_with(
        &mut self,
        attention: &Attention<'_>,
        (text, names): (&[&str], Names),
        r: usize,
        most: usize,
    ) -> Result<()> {
        let kv_heads = attention.cache.heads;
        let group = attention.heads / kv_heads;
        let pairs = attention.cache.head_dim / 2;
        let groups = (THREADS / pairs).clamp(1, most);
        let span = THREADS / groups;
        let names = names
            .set("R", r)
            .set("GROUPS", groups)
            .set("ON", r.div_ceil(groups))
            .set("WN", pairs.div_ceil(span))
            .set("SPAN", span)
            .set("SHARED", THREADS)
            .flag("SHARED_GROUPS", groups > 1)
            .set("WORD", format!("(t % {span}u)"));
        let grid = Grid::Attend { kv_heads: kv_heads as u32, group: group as u32, r: r as u32 };
        self.attention_step(attention, (text, &names), grid)
    }

    fn attention_step(
        &mut self,
        attention: &Attention<'_>,
        kernel: (&[&str], &Names),
        grid: Grid,
    ) -> Result<()> {
        let bindings = [
            Binding::write(1, &attention.qkv.buffer),
            Binding::read(2, &attention.vectors.buffer),
            Binding::read(3, &attention.angles.buffer),
            Binding::write(4, &attention.out.buffer),
            Binding::write(5, &attention.partials.buffer),
        ];
        let work = (attention.heads * attention.cache.head_dim) as u64;
        let name = match grid {
            Grid::Store { .. } => "keys and values",
            Grid::Merge { .. } => "attention, chunks",
            _ => "attention",
        };
        let of = (name.to_owned(), grid, Some(attention.kept), work);
        self.step(kernel, &attention.words(), &bindings, of)
    }
}
