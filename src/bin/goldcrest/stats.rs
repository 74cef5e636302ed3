//! What a run cost, for people and for programs.

use std::fmt;

use goldcrest::{Model, StopReason};
use serde::Serialize;

/// Where the blocks of a model run, in words: alike ones that follow one another in a line.
pub(crate) fn placement(model: &Model) -> String {
    let mut text = String::new();
    #[cfg(feature = "gpu")]
    if let Some(offload) = model.offload() {
        let place = |on_device: bool, reason: &Option<String>| match (on_device, reason) {
            (true, _) => format!("on {}", offload.device),
            (false, Some(reason)) => format!("on the CPU: {reason}"),
            (false, None) => "on the CPU".to_owned(),
        };
        for blocks in
            offload.blocks.chunk_by(|a, b| (a.on_device, &a.reason) == (b.on_device, &b.reason))
        {
            let mut kinds: Vec<_> = blocks.iter().map(|block| block.kind.as_str()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            let place = place(blocks[0].on_device, &blocks[0].reason);
            text += &format!("{} blocks ({}) {place}\n", blocks.len(), kinds.join(", "));
        }
        text += &format!("output {}\n", place(offload.head, &None));
        return text;
    }
    text += &format!("all of {} on the CPU\n", model.path().display());
    text
}

/// The statistics of a run.
#[derive(Serialize)]
pub(crate) struct RunStats {
    pub(crate) load_seconds: f64,
    pub(crate) prompt_tokens: usize,
    pub(crate) prompt_seconds: f64,
    pub(crate) prompt_tokens_per_second: f64,
    /// Generated tokens that were run: one less than were chosen.
    pub(crate) decode_tokens: usize,
    pub(crate) decode_seconds: f64,
    pub(crate) decode_tokens_per_second: f64,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) isa: &'static str,
    pub(crate) threads: usize,
    /// None where nothing was left to chance.
    pub(crate) seed: Option<u64>,
}

impl RunStats {
    pub(crate) fn new(
        model: &Model,
        load_seconds: f64,
        run: goldcrest::Stats,
        seed: Option<u64>,
    ) -> Self {
        Self {
            load_seconds,
            prompt_tokens: run.prompt_tokens,
            prompt_seconds: run.prompt_seconds,
            prompt_tokens_per_second: run.prompt_rate(),
            decode_tokens: run.decode_tokens,
            decode_seconds: run.decode_seconds,
            decode_tokens_per_second: run.decode_rate(),
            peak_memory_bytes: peak_memory(),
            isa: model.isa().name(),
            threads: model.threads(),
            seed,
        }
    }
}

impl fmt::Display for RunStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "load    {:.2} s", self.load_seconds)?;
        let mut speed = |name: &str, tokens: usize, rate: f64| {
            let s = if tokens == 1 { "" } else { "s" };
            writeln!(f, "{name:<7} {tokens} token{s}, {rate:.1} tokens/s")
        };
        speed("prompt", self.prompt_tokens, self.prompt_tokens_per_second)?;
        speed("decode", self.decode_tokens, self.decode_tokens_per_second)?;
        if let Some(bytes) = self.peak_memory_bytes {
            writeln!(f, "memory  {:.1} MiB at its peak", bytes as f64 / f64::from(1 << 20))?;
        }
        let s = if self.threads == 1 { "" } else { "s" };
        writeln!(f, "with    {}, {} thread{s}", self.isa, self.threads)?;
        self.seed.map_or(Ok(()), |seed| writeln!(f, "seed    {seed}"))
    }
}

/// The name of a reason in JSON.
pub(crate) fn reason_name(reason: Option<StopReason>) -> &'static str {
    match reason {
        Some(StopReason::EndOfText) => "end_of_text",
        Some(StopReason::StopString) => "stop_string",
        Some(StopReason::MaxTokens) => "max_tokens",
        Some(StopReason::ContextFull) => "context_full",
        Some(StopReason::Cancelled) => "cancelled",
        _ => "failed",
    }
}

/// The most memory that the process has had so far, mapped pages of the file included; `None`
/// where the system does not tell.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
