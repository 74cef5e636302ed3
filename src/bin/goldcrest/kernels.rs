//! `goldcrest kernels`: the kernels of this machine, and what each gives.
//!
//! Everything runs in one thread. "In cache" is a few panels that stay in the second level; "from
//! memory" is half a gigabyte of them.

use std::hint::black_box;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use goldcrest::load::{Buffer, GgmlType};
use goldcrest::synthetic::random_rows;
use goldcrest::{Format, Isa};
use goldcrest_kernels::{Kernels, PANEL_ROWS, Rows, Tile, pack_panel};
use serde::Serialize;

use crate::args::isa_parser;
use crate::bandwidth::Bandwidth;
use crate::bench::median;
use crate::failure::Failure;
use crate::machine;

/// The width of the weights: a multiple of every block.
const K: usize = 2048;
/// Bytes of panels that stay in a second-level cache, and of panels that fit no cache.
const IN_CACHE: usize = 256 << 10;
const IN_MEMORY: u64 = 512 << 20;
/// Rows of activations.
const CACHE_ROWS: &[usize] = &[1, 4, 16, 64, 512];
const MEMORY_ROWS: &[usize] = &[1, 4];
/// Each figure is the median of so many measurements of at least so long.
const SAMPLES: usize = 5;
const SAMPLE: Duration = Duration::from_millis(5);

#[derive(Args)]
#[command(after_help = "\
A kernel's name is instruction set, operation, format: `avx2-matvec-q4_k` multiplies Q4_K weights
by one row with AVX2. A slower decode is that of formats without kernels of their own, whose
blocks become floats before each product. Times are of one thread. The last columns compare a product in cache with
the fastest product of its instruction set, and a product from memory with the best of several
plain reads.")]
pub(crate) struct KernelsArgs {
    /// Instruction sets [default: all that this machine runs]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', ignore_case = true,
        value_parser = isa_parser())]
    isa: Vec<Isa>,
    /// Formats [default: all]
    #[arg(long, value_name = "TYPE,TYPE", value_delimiter = ',', ignore_case = true,
        value_parser = format_parser())]
    format: Vec<Format>,
    /// List the kernels without timing them
    #[arg(long)]
    list: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.iter().map(|format| format.name())).try_map(|name| {
        let formats = Format::ALL.iter().copied();
        formats.into_iter().find(|f| f.name().eq_ignore_ascii_case(&name)).ok_or("no format")
    })
}

/// One kernel, and one way to time it.
#[derive(Serialize)]
struct Line {
    kernel: String,
    isa: &'static str,
    op: &'static str,
    format: &'static str,
    /// Whether blocks are decoded to floats before each product.
    slower_decode: bool,
    /// Rows of activations.
    rows: usize,
    /// `cache` or `memory`.
    #[serde(rename = "where")]
    place: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gmacs: Option<f64>,
    /// Of packed weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    gbs: Option<f64>,
    /// Of the fastest product in cache of this instruction set.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_fraction: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_fraction: Option<f64>,
}

/// One instruction set.
#[derive(Serialize)]
struct Tier {
    isa: &'static str,
    supported: bool,
    best: bool,
}

pub(crate) fn kernels(args: &KernelsArgs) -> Result<(), Failure> {
    let isas = match args.isa.as_slice() {
        [] => Isa::supported().collect(),
        isas => isas.to_vec(),
    };
    let mut tables = Vec::new();
    for isa in isas {
        tables.push(
            Kernels::for_isa(isa)
                .ok_or_else(|| Failure::usage(format!("this machine does not run \"{isa}\"")))?,
        );
    }
    let formats = if args.format.is_empty() { Format::ALL } else { &args.format };
    // One line of each op is enough for a list.
    let (cache_rows, memory_rows) =
        if args.list { (&CACHE_ROWS[..2], &[][..]) } else { (CACHE_ROWS, MEMORY_ROWS) };
    let mut lines = Vec::new();
    let mut limit = None;
    if !args.list {
        let mut bandwidth = Bandwidth::new(1, None)?;
        (0..3).for_each(|_| bandwidth.round());
        limit = bandwidth.limit();
    }
    for &format in formats {
        let mut weights = Weights::new(format, if args.list { 0 } else { memory_bytes() })?;
        for kernels in &tables {
            let first = lines.len();
            lines.extend(cache_rows.iter().map(|&rows| line(kernels, format, rows, "cache")));
            lines.extend(memory_rows.iter().map(|&rows| line(kernels, format, rows, "memory")));
            if !args.list {
                lines[first..].iter_mut().for_each(|line| weights.time(kernels, line));
            }
        }
    }
    for kernels in &tables {
        let isa = kernels.isa().name();
        let best = lines.iter().filter(|line| line.isa == isa && line.place == "cache");
        let best = best.filter_map(|line| line.gmacs).fold(0.0, f64::max);
        for line in lines.iter_mut().filter(|line| line.isa == isa) {
            match line.place {
                "cache" => line.rate_fraction = line.gmacs.map(|gmacs| gmacs / best),
                _ => line.bandwidth_fraction = line.gbs.zip(limit).map(|(gbs, l)| gbs / l.gbs),
            }
        }
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let tiers = Isa::ALL.iter().map(|&isa| Tier {
        isa: isa.name(),
        supported: isa.is_supported(),
        best: isa == Isa::best(),
    });
    if args.json {
        for tier in tiers {
            serde_json::to_writer(&mut out, &tier).map_err(io::Error::from)?;
            writeln!(out)?;
        }
        for line in &lines {
            serde_json::to_writer(&mut out, line).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    } else {
        for Tier { isa, supported, best } in tiers {
            let state = match (supported, best) {
                (_, true) => "yes, the best",
                (true, _) => "yes",
                _ => "no",
            };
            writeln!(out, "{isa:<14}{state}")?;
        }
        if let Some(limit) = limit {
            writeln!(out, "\nmemory gives {:.1} GB/s to one thread ({})", limit.gbs, limit.probe)?;
        }
        writeln!(out)?;
        if args.list {
            for Line { kernel, slower_decode, .. } in &lines {
                writeln!(out, "{kernel}{}", if *slower_decode { "  (slower decode)" } else { "" })?;
            }
        } else {
            table(&mut out, &lines)?;
        }
    }
    Ok(out.flush()?)
}

fn line(kernels: &Kernels, format: Format, rows: usize, place: &'static str) -> Line {
    let isa = kernels.isa().name();
    let op = if rows == 1 { "matvec" } else { "matmul" };
    Line {
        kernel: format!("{isa}-{op}-{}", format.name().to_lowercase()),
        isa,
        op,
        format: format.name(),
        slower_decode: format.is_decoded(),
        rows,
        place,
        gmacs: None,
        gbs: None,
        rate_fraction: None,
        bandwidth_fraction: None,
    }
}

fn table(out: &mut impl Write, lines: &[Line]) -> io::Result<()> {
    let [kernel, rows, place] = ["kernel", "rows", "from"];
    writeln!(
        out,
        "{kernel:<26}{rows:>6}  {place:<8}{:>10}{:>10}{:>9}{:>11}",
        "GMAC/s", "GB/s", "of best", "of memory"
    )?;
    for line in lines {
        let number = |x: Option<f64>, scale: f64, unit: &str| {
            let digits = usize::from(unit.is_empty());
            x.map_or_else(String::new, |x| format!("{:.digits$}{unit}", x * scale))
        };
        let Line { kernel, rows, place, .. } = line;
        let note = if line.slower_decode { "  (slower decode)" } else { "" };
        writeln!(
            out,
            "{kernel:<26}{rows:>6}  {place:<8}{:>10}{:>10}{:>9}{:>11}{note}",
            number(line.gmacs, 1.0, ""),
            number(line.gbs, 1.0, ""),
            number(line.rate_fraction, 100.0, "%"),
            number(line.bandwidth_fraction, 100.0, "%"),
        )?;
    }
    Ok(())
}

fn memory_bytes() -> usize {
    machine::available_memory().map_or(IN_MEMORY / 4, |free| IN_MEMORY.min(free / 4)) as usize
}

/// Packed weights of one format, in cache and in memory.
struct Weights {
    format: Format,
    small: Buffer,
    large: Buffer,
}

impl Weights {
    fn new(format: Format, memory_bytes: usize) -> goldcrest::Result<Self> {
        let panel = format.panel_bytes(K);
        let mut small = Buffer::zeroed((IN_CACHE / panel).max(1) * panel)?;
        let ty = GgmlType::ALL.iter().copied().find(|ty| ty.name() == format.name());
        let ty = ty.expect("formats are GGML's");
        let rows = random_rows(ty, small.len() / panel * PANEL_ROWS, K, 1);
        let row = format.row_bytes(K).expect("whole blocks");
        let panels = small.as_mut_slice().chunks_exact_mut(panel);
        for (rows, panel) in rows.chunks_exact(row * PANEL_ROWS).zip(panels) {
            pack_panel(format, K, rows, panel);
        }
        let mut large = Buffer::zeroed(memory_bytes / small.len() * small.len())?;
        for part in large.as_mut_slice().chunks_exact_mut(small.len().max(1)) {
            part.copy_from_slice(&small);
        }
        Ok(Self { format, small, large })
    }

    /// Fills in the figures of a line.
    fn time(&mut self, kernels: &Kernels, line: &mut Line) {
        let panels: &[u8] = if line.place == "cache" { &self.small } else { &self.large };
        let (format, m) = (self.format, line.rows);
        let n = panels.len() / format.panel_bytes(K) * PANEL_ROWS;
        if n == 0 {
            return;
        }
        let kind = format.activation();
        let mut x = vec![0u8; m * kind.row_bytes(K)];
        let value = |at: usize| ((at % K * 31 + at / K * 17) % 64) as f32 - 31.5;
        let values: Vec<f32> = (0..m * K).map(value).collect();
        kernels.quantize_rows(kind, K, &values, &mut x);
        let mut out = vec![0.0f32; m * n];
        let mut product = || {
            let tile = Tile::new(&mut out, n, m, n);
            let rows = Rows::new(kind, K, &x, m, kernels.group());
            kernels.matmul(format, K, black_box(panels), rows, tile);
            black_box(&out);
        };
        product();
        let seconds: Vec<f64> = (0..SAMPLES).map(|_| seconds_per_call(&mut product)).collect();
        let seconds = median(&seconds);
        line.gmacs = Some((m * n * K) as f64 * 1e-9 / seconds);
        line.gbs = Some(panels.len() as f64 * 1e-9 / seconds);
    }
}

fn seconds_per_call(call: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut calls = 0;
    while calls == 0 || start.elapsed() < SAMPLE {
        call();
        calls += 1;
    }
    start.elapsed().as_secs_f64() / f64::from(calls)
}
