//! `goldcrest bench`: tokens per second, and how near that is to what the memory gives.
//!
//! After one warm-up, the tests and the bandwidth probes take turns, so that a change of the
//! machine's speed meets all of them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use clap::Args;
use clap::builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser};
use goldcrest::load::{Checkpoint, GgmlType, ReadOptions};
use goldcrest::synthetic::{self, Mixture, Shape};
use goldcrest::{Isa, KvType, Model, Session, SessionOptions};
use serde::Serialize;

use crate::args::{isa_parser, kv_parser};
use crate::bandwidth::{Bandwidth, Limit};
use crate::device::DeviceArgs;
use crate::failure::Failure;
use crate::machine;

/// Each probe of the bandwidth runs so many times at least.
const ROUNDS: usize = 3;

#[derive(Args)]
#[command(after_help = "\
Examples:
  goldcrest bench -m model.gguf
  goldcrest bench --shape smollm2-135m --quant q4_k_m -t 1,2 --isa avx2,avx512-vnni
  goldcrest bench --shape llama-3.2-1b --quant q4_0 -p 0 --sequences 1,4,16,64
  goldcrest bench --shape deepseek-r1-distill-qwen-1.5b --quant q4_0 --save model.gguf -r 0

`pp512` runs a prompt of 512 tokens, `tg64` decodes 64 tokens one by one from an empty context; the
tokens are random. The bandwidth of decoding is the bytes of weights that a token reads times the
tokens per second; its share is of the best of several probes, run between the repetitions with
the same number of threads. Weights that fit into a cache can pass 100%. `tg64 x16` decodes 64 tokens
of each of 16 sequences at once and counts all of them.")]
pub(crate) struct BenchArgs {
    /// GGUF file, Hugging Face folder or packed file
    #[arg(short, long, value_name = "MODEL", required_unless_present = "shape")]
    model: Option<PathBuf>,
    /// Random weights in the shape of this model instead of a file
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_parser = shape_parser())]
    shape: Option<&'static Shape>,
    /// The types of the random weights, as llama.cpp mixes them
    #[arg(long, value_name = "TYPE", default_value = "q4_k_m", ignore_case = true,
        conflicts_with = "model", value_parser = mixture_parser())]
    quant: &'static Mixture,
    /// Keep the random model as a GGUF file
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    save: Option<PathBuf>,
    /// Tokens of the prompt; 0 leaves the test out
    #[arg(short = 'p', long = "n-prompt", value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to decode; 0 leaves the test out
    #[arg(short = 'n', long = "n-gen", value_name = "N", default_value_t = 64)]
    decode: usize,
    /// Sequences that decode together, a thread each, in tests of their own
    #[arg(long, value_name = "N,N", value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    sequences: Vec<usize>,
    /// A prompt in pieces of N tokens, with logits after every token: as much work as N sequences
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pieces: Option<usize>,
    /// Numbers of threads [default: the physical cores that the process may use]
    #[arg(short, long, value_name = "N,N", value_delimiter = ',',
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    threads: Vec<usize>,
    /// Instruction sets [default: $GOLDCREST_ISA, else the best of this machine]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', ignore_case = true,
        value_parser = isa_parser())]
    isa: Vec<Isa>,
    /// Repetitions of each test; 0 only writes the file
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Number format of keys and values
    #[arg(long, value_name = "TYPE", default_value = "f16", ignore_case = true,
        value_parser = kv_parser())]
    kv: KvType,
    /// Megabytes that a probe of the bandwidth reads [default: 1024, a quarter of the free memory
    /// at most]
    #[arg(long, value_name = "MB",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    probe: Option<usize>,
    /// The same bits on every machine, as in `goldcrest run`
    #[arg(long)]
    deterministic: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// How long the GPU is at each step of each test, in a run of its own that is slower for it
    #[cfg(feature = "gpu")]
    #[arg(long, help_heading = "Device")]
    steps: bool,
    /// Load a model that needs more memory than there is at hand
    #[arg(long)]
    no_memory_check: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

fn shape_parser() -> impl TypedValueParser<Value = &'static Shape> {
    PossibleValuesParser::new(Shape::ALL.iter().map(|shape| shape.name))
        .try_map(|name| Shape::by_name(&name).ok_or("no such shape"))
}

fn mixture_parser() -> impl TypedValueParser<Value = &'static Mixture> {
    PossibleValuesParser::new(Mixture::ALL.iter().map(|mixture| mixture.name))
        .try_map(|name| Mixture::by_name(&name).ok_or("no such type"))
}

/// What every line of the output has in common.
#[derive(Serialize)]
struct Run {
    model: String,
    #[serde(rename = "type")]
    ty: String,
    isa: &'static str,
    /// The GPU, where there is one.
    device: Option<String>,
    threads: usize,
    bytes_per_token: u64,
    peak_rss_bytes: Option<u64>,
    load_seconds: f64,
}

/// Tokens per second.
#[derive(Serialize)]
struct Rates {
    median: f64,
    min: f64,
    max: f64,
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    run: &'a Run,
    test: &'a str,
    sequences: usize,
    tps: Rates,
    cpu_seconds_per_token: Option<f64>,
    /// Decoding alone is bound by memory: of a prompt, many tokens share a read.
    bandwidth_gbs: Option<f64>,
    bandwidth_fraction: Option<f64>,
    /// The best probe, and what it read.
    probe: Option<&'static str>,
    probe_gbs: Option<f64>,
}

pub(crate) fn bench(args: &BenchArgs) -> Result<(), Failure> {
    let file = ModelFile::of(args)?;
    if args.repetitions == 0 {
        return Ok(());
    }
    if args.prompt == 0 && args.decode == 0 {
        return Err(Failure::usage("there is nothing to measure: both -p and -n are 0"));
    }
    let isas: Vec<Option<Isa>> = match args.isa.as_slice() {
        [] => vec![None],
        isas => isas.iter().copied().map(Some).collect(),
    };
    let threads: Vec<Option<usize>> = match args.threads.as_slice() {
        [] => vec![None],
        threads => threads.iter().copied().map(Some).collect(),
    };
    for &isa in &isas {
        for &threads in &threads {
            measure(args, &file, isa, threads)?;
        }
    }
    Ok(())
}

/// The model to measure, and its file's end if it was made for the measurement.
struct ModelFile {
    path: PathBuf,
    model: String,
    ty: String,
    temporary: bool,
}

impl ModelFile {
    fn of(args: &BenchArgs) -> Result<Self, Failure> {
        if let Some(path) = &args.model {
            let checkpoint = Checkpoint::open(path, &ReadOptions::default())?;
            let model = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
            let ty = type_name(&checkpoint);
            return Ok(Self { path: path.clone(), model: model.into(), ty, temporary: false });
        }
        let shape = args.shape.ok_or_else(|| Failure::usage("a model or a shape is needed"))?;
        let mixture = args.quant;
        let name = format!("goldcrest-{}-{}-{mixture}.gguf", std::process::id(), shape.name);
        let file = Self {
            path: args.save.clone().unwrap_or_else(|| std::env::temp_dir().join(name)),
            model: shape.name.into(),
            ty: mixture.name.to_uppercase(),
            temporary: args.save.is_none(),
        };
        if !file.temporary || args.repetitions > 0 {
            synthetic::save(shape, mixture, 1, &file.path)?;
        }
        Ok(file)
    }
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The mixture that the file says it is, else the type that most of its bytes have.
fn type_name(checkpoint: &Checkpoint) -> String {
    let file_type = checkpoint.metadata().get_u32("general.file_type").ok().flatten();
    if let Some(mixture) = file_type.and_then(Mixture::by_file_type) {
        return mixture.name.to_uppercase();
    }
    let bytes = |ty: GgmlType| -> usize {
        let of_type = checkpoint.tensors().iter().filter(|tensor| tensor.ty == ty);
        of_type.map(|tensor| tensor.byte_len()).sum()
    };
    let main = GgmlType::ALL.iter().copied().max_by_key(|&ty| bytes(ty));
    main.map_or_else(String::new, |ty| ty.to_string())
}

/// What a test does with its tokens.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// All at once.
    Prompt,
    /// One after another.
    Decode,
    /// One after another, in so many sessions at once.
    Sequences(usize),
    /// In pieces of so many, with all logits.
    Pieces(usize),
}

/// One test and its measurements.
struct Test {
    name: String,
    way: Way,
    /// Of one sequence.
    tokens: usize,
    seconds: Vec<f64>,
    cpu_seconds: Option<f64>,
}

impl Test {
    /// `None` for no tokens.
    fn new(way: Way, tokens: usize) -> Option<Self> {
        let name = match way {
            Way::Prompt => format!("pp{tokens}"),
            Way::Decode => format!("tg{tokens}"),
            Way::Sequences(n) => format!("tg{tokens} x{n}"),
            Way::Pieces(n) => format!("pp{tokens} /{n}"),
        };
        let (seconds, cpu_seconds) = (Vec::new(), Some(0.0));
        (tokens > 0).then_some(Self { name, way, tokens, seconds, cpu_seconds })
    }

    /// All tests that the arguments ask for.
    fn all(args: &BenchArgs) -> Vec<Self> {
        let sequences = args.sequences.iter().map(|&n| (Way::Sequences(n), args.decode));
        let pieces = args.pieces.iter().map(|&n| (Way::Pieces(n), args.prompt));
        let first = [(Way::Prompt, args.prompt), (Way::Decode, args.decode)];
        let all = first.into_iter().chain(pieces).chain(sequences);
        all.filter_map(|(way, tokens)| Self::new(way, tokens)).collect()
    }

    fn sequences(&self) -> usize {
        if let Way::Sequences(n) = self.way { n } else { 1 }
    }

    /// Tokens of all sequences.
    fn all_tokens(&self) -> f64 {
        (self.tokens * self.sequences()) as f64
    }

    /// Runs the test; gives the CPU seconds of threads that have ended, where there were any.
    fn run(&self, sessions: &mut [Session]) -> goldcrest::Result<Option<f64>> {
        let vocab = sessions[0].model().config().vocab_size() as u32;
        let ids: Vec<u32> = token_ids(vocab).take(self.tokens).collect();
        let sessions = &mut sessions[..self.sequences()];
        sessions.iter_mut().for_each(Session::clear);
        let session = &mut sessions[0];
        match self.way {
            Way::Prompt => session.push(&ids)?,
            Way::Decode => ids.chunks(1).try_for_each(|id| session.push(id))?,
            Way::Pieces(n) => {
                ids.chunks(n).try_for_each(|ids| session.logits_all(ids).map(drop))?;
            }
            Way::Sequences(_) => return together(sessions, &ids),
        }
        Ok(Some(0.0))
    }

    fn measure(&mut self, sessions: &mut [Session]) -> goldcrest::Result<()> {
        let cpu = machine::cpu_seconds();
        let start = Instant::now();
        let ended = self.run(sessions)?;
        self.seconds.push(start.elapsed().as_secs_f64());
        let cpu = machine::cpu_seconds().zip(cpu).map(|(after, before)| after - before);
        let cpu = cpu.zip(ended).map(|(cpu, ended)| cpu + ended);
        self.cpu_seconds = self.cpu_seconds.zip(cpu).map(|(sum, cpu)| sum + cpu);
        Ok(())
    }

    fn line<'a>(&'a self, run: &'a Run, limit: Option<Limit>) -> Line<'a> {
        let rates: Vec<f64> = self.seconds.iter().map(|s| self.all_tokens() / s).collect();
        let tps = Rates {
            median: median(&rates),
            min: rates.iter().copied().fold(f64::INFINITY, f64::min),
            max: rates.iter().copied().fold(0.0, f64::max),
        };
        let gbs =
            (self.way == Way::Decode).then_some(run.bytes_per_token as f64 * 1e-9 * tps.median);
        let all_tokens = self.all_tokens() * self.seconds.len() as f64;
        Line {
            run,
            test: &self.name,
            sequences: self.sequences(),
            tps,
            cpu_seconds_per_token: self.cpu_seconds.map(|s| s / all_tokens),
            bandwidth_gbs: gbs,
            bandwidth_fraction: gbs.zip(limit).map(|(gbs, limit)| gbs / limit.gbs),
            probe: limit.map(|limit| limit.probe),
            probe_gbs: limit.map(|limit| limit.gbs),
        }
    }
}

/// Decodes `ids` in every session, a thread each; gives the threads' CPU seconds.
fn together(sessions: &mut [Session], ids: &[u32]) -> goldcrest::Result<Option<f64>> {
    let decode = |session: &mut Session| -> goldcrest::Result<_> {
        ids.chunks(1).try_for_each(|id| session.push(id))?;
        Ok(machine::thread_cpu_seconds())
    };
    thread::scope(|scope| {
        let start = |session| scope.spawn(move || decode(session));
        let threads: Vec<_> = sessions.iter_mut().map(start).collect();
        // A panic of a thread goes on in this one.
        let end = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let seconds: Vec<Option<f64>> = threads.into_iter().map(end).collect::<Result<_, _>>()?;
        Ok(seconds.into_iter().sum())
    })
}

/// Tokens that look random, the same in every run.
fn token_ids(vocab: u32) -> impl Iterator<Item = u32> {
    let mut state = 0x2545_f491u64;
    std::iter::repeat_with(move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % vocab
    })
}

fn measure(
    args: &BenchArgs,
    file: &ModelFile,
    isa: Option<Isa>,
    threads: Option<usize>,
) -> Result<(), Failure> {
    let context = args.prompt.max(args.decode);
    let mut loader = Model::loader(&file.path)
        .kv(args.kv)
        .context(context)
        .deterministic(args.deterministic)
        .memory_check(!args.no_memory_check);
    if let Some(isa) = isa {
        loader = loader.isa(isa);
    }
    if let Some(threads) = threads {
        loader = loader.threads(threads);
    }
    machine::reset_peak();
    let start = Instant::now();
    let model = args.device.apply(loader)?.load().map_err(Failure::of_arguments)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let mut tests = Test::all(args);
    let most = tests.iter().map(Test::sequences).max().unwrap_or(1);
    let one = || model.session_with(SessionOptions::default().context(context));
    let mut sessions: Vec<Session> = (0..most).map(|_| one()).collect::<Result<_, _>>()?;
    for test in &tests {
        test.run(&mut sessions)?;
    }
    // Before the probes' buffers come.
    let peak_rss_bytes = machine::peak_rss();
    let mut bandwidth = Probes::new(&model, args.probe.map(|mb| mb << 20))?;
    for _ in 0..args.repetitions {
        for test in &mut tests {
            test.measure(&mut sessions)?;
        }
        bandwidth.round()?;
    }
    for _ in args.repetitions..ROUNDS {
        bandwidth.round()?;
    }
    let run = Run {
        model: file.model.clone(),
        ty: file.ty.clone(),
        isa: model.isa().name(),
        device: device_name(&model),
        threads: model.threads(),
        bytes_per_token: model.weight_bytes(),
        peak_rss_bytes,
        load_seconds,
    };
    let limit = bandwidth.limit();
    let lines: Vec<Line<'_>> = tests.iter().map(|test| test.line(&run, limit)).collect();
    let mut out = io::stdout().lock();
    if args.json {
        for line in &lines {
            serde_json::to_writer(&mut out, line).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    } else {
        table(&mut out, &file.path, &run, limit, &lines)?;
    }
    #[cfg(feature = "gpu")]
    if args.steps {
        steps(&mut out, &model, &tests, (&mut sessions, args.json))?;
    }
    Ok(out.flush()?)
}

/// How long the GPU is at each step.
#[cfg(feature = "gpu")]
fn steps(
    out: &mut impl Write,
    model: &Model,
    tests: &[Test],
    (sessions, json): (&mut Vec<Session>, bool),
) -> Result<(), Failure> {
    for test in tests {
        model.start_device_timing()?;
        test.run(sessions)?;
        let timings = model.end_device_timing();
        if !json {
            writeln!(out, "\n{:<8}{:>10}{:>8}{:>10}  step", test.name, "ms", "times", "us each")?;
        }
        for timing in timings {
            let each = timing.seconds * 1e6 / timing.count as f64;
            if json {
                let (test, step, count) = (&test.name, &timing.step, timing.count);
                let seconds = timing.seconds;
                let line = serde_json::json!({
                    "test": test, "step": step, "count": count, "seconds": seconds
                });
                writeln!(out, "{line}")?;
                continue;
            }
            let ms = timing.seconds * 1e3;
            writeln!(out, "{:<8}{ms:>10.2}{:>8}{each:>10.1}  {}", "", timing.count, timing.step)?;
        }
    }
    Ok(())
}

/// The GPU that runs blocks of a model.
fn device_name(model: &Model) -> Option<String> {
    #[cfg(feature = "gpu")]
    return model.offload().map(|offload| offload.device.clone());
    #[cfg(not(feature = "gpu"))]
    {
        let _ = model;
        None
    }
}

/// Probes of the memory that a model's weights are read from: the system's, or a GPU's.
enum Probes {
    System(Bandwidth),
    #[cfg(feature = "gpu")]
    Device(Box<goldcrest::GpuBandwidth>, f64),
}

impl Probes {
    fn new(model: &Model, bytes: Option<usize>) -> Result<Self, Failure> {
        #[cfg(feature = "gpu")]
        if let Some(probe) = model.device_bandwidth()? {
            return Ok(Self::Device(Box::new(probe), 0.0));
        }
        Ok(Self::System(Bandwidth::new(model.threads(), bytes)?))
    }

    fn round(&mut self) -> Result<(), Failure> {
        match self {
            Self::System(bandwidth) => bandwidth.round(),
            #[cfg(feature = "gpu")]
            Self::Device(probe, best) => {
                *best = best.max(probe.round().map_err(goldcrest::Error::from)?)
            }
        }
        Ok(())
    }

    fn limit(&self) -> Option<Limit> {
        match self {
            Self::System(bandwidth) => bandwidth.limit(),
            #[cfg(feature = "gpu")]
            Self::Device(_, gbs) => Some(Limit { probe: "of the GPU", gbs: *gbs }),
        }
    }
}

fn table(
    out: &mut impl Write,
    path: &Path,
    run: &Run,
    limit: Option<Limit>,
    lines: &[Line<'_>],
) -> io::Result<()> {
    let Run { model, ty, isa, threads, bytes_per_token, peak_rss_bytes, load_seconds, .. } = run;
    let s = if *threads == 1 { "" } else { "s" };
    let device = run.device.as_ref().map_or_else(String::new, |name| format!("{name}, "));
    writeln!(out, "{model} {ty}, {device}{isa}, {threads} thread{s} ({})", path.display())?;
    write!(out, "loaded in {load_seconds:.2} s")?;
    if let Some(bytes) = peak_rss_bytes {
        write!(out, ", {:.1} MB of memory at the peak", *bytes as f64 * 1e-6)?;
    }
    writeln!(out, ", {:.1} MB of weights per token", *bytes_per_token as f64 * 1e-6)?;
    if let Some(Limit { probe, gbs }) = limit {
        writeln!(out, "memory gives {gbs:.1} GB/s ({probe})")?;
    }
    let columns = ["test", "tokens/s", "min", "max", "CPU ms/token", "GB/s", "of memory"];
    let [test, rate, min, max, cpu, gbs, share] = columns;
    writeln!(out, "{test:<12}{rate:>10}{min:>10}{max:>10}{cpu:>14}{gbs:>8}{share:>11}")?;
    for line in lines {
        let Rates { median, min, max } = line.tps;
        let number = |x: Option<f64>, scale: f64, digits: usize, unit: &str| {
            x.map_or_else(|| "-".into(), |x| format!("{:.digits$}{unit}", x * scale))
        };
        let cpu = number(line.cpu_seconds_per_token, 1e3, 3, "");
        let gbs = number(line.bandwidth_gbs, 1.0, 1, "");
        let share = number(line.bandwidth_fraction, 100.0, 0, "%");
        let test = line.test;
        writeln!(
            out,
            "{test:<12}{median:>10.1}{min:>10.1}{max:>10.1}{cpu:>14}{gbs:>8}{share:>11}"
        )?;
    }
    writeln!(out)
}

/// The middle of the samples, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    (sorted[low] + sorted[high]) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn ids_stay_in_the_vocabulary() {
        let ids: Vec<u32> = token_ids(100).take(1000).collect();
        assert!(ids.iter().all(|&id| id < 100));
        assert_eq!(ids, token_ids(100).take(1000).collect::<Vec<_>>());
    }
}
