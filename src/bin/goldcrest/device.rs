//! Which device runs a model, and `goldcrest devices`.

use clap::Args;
use goldcrest::Loader;

use crate::failure::Failure;

/// The device, and how much of a model runs there.
#[derive(Args, Debug, Clone, PartialEq)]
#[command(next_help_heading = "Device")]
pub(crate) struct DeviceArgs {
    /// "cpu", or a GPU by its number or a part of its name, as `goldcrest devices` lists them
    /// [default: cpu; with --gpu-layers the best GPU that is no software]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// Layers that run on the GPU, from the last back, the output first: a number, "all", or "auto": as
    /// many as its memory holds (also -ngl) [default: auto, where a device is named]
    #[arg(long, alias = "n-gpu-layers", value_name = "N", value_parser = layers)]
    pub(crate) gpu_layers: Option<Layers>,
}

/// How many layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layers {
    Auto,
    All,
    Count(usize),
}

fn layers(text: &str) -> Result<Layers, String> {
    match text {
        "auto" => Ok(Layers::Auto),
        "all" => Ok(Layers::All),
        _ => text
            .parse()
            .map(Layers::Count)
            .map_err(|_| "no number, and not \"auto\" or \"all\"".into()),
    }
}

/// The arguments with llama.cpp's `-ngl` as `--gpu-layers`: one dash would be `-n gl`.
pub(crate) fn rewritten(args: impl Iterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    args.map(|arg| match arg.to_str().and_then(|text| text.strip_prefix("-ngl")) {
        Some("") => "--gpu-layers".into(),
        Some(rest) if rest.starts_with('=') => format!("--gpu-layers{rest}").into(),
        _ => arg,
    })
    .collect()
}

impl DeviceArgs {
    /// Whether a GPU is asked for.
    pub(crate) fn is_gpu(&self) -> bool {
        let cpu = self.device.as_deref().is_some_and(|name| name.eq_ignore_ascii_case("cpu"));
        let some = self.gpu_layers.is_some_and(|layers| layers != Layers::Count(0));
        !cpu && (some || self.device.is_some() && self.gpu_layers.is_none())
    }

    /// Says so to the loader.
    #[cfg(feature = "gpu")]
    pub(crate) fn apply(&self, loader: Loader) -> Result<Loader, Failure> {
        use goldcrest::GpuLayers;
        if !self.is_gpu() {
            return Ok(loader);
        }
        let layers = match self.gpu_layers {
            None | Some(Layers::Auto) => GpuLayers::Auto,
            Some(Layers::All) => GpuLayers::All,
            Some(Layers::Count(n)) => GpuLayers::Count(n),
        };
        Ok(loader.gpu(self.device.as_deref(), layers))
    }

    /// Says so to the loader.
    #[cfg(not(feature = "gpu"))]
    pub(crate) fn apply(&self, loader: Loader) -> Result<Loader, Failure> {
        if self.is_gpu() {
            return Err(without_gpus());
        }
        Ok(loader)
    }
}

#[cfg(not(feature = "gpu"))]
fn without_gpus() -> Failure {
    Failure::usage("this program was built without GPUs: build it with `--features gpu`")
}

/// `goldcrest devices`
#[cfg(not(feature = "gpu"))]
pub(crate) fn devices(_json: bool) -> Result<(), Failure> {
    Err(without_gpus())
}

/// `goldcrest devices`
#[cfg(feature = "gpu")]
pub(crate) fn devices(json: bool) -> Result<(), Failure> {
    use std::io::Write;

    let mut out = std::io::stdout().lock();
    let known = goldcrest::gpu_devices();
    if json {
        for device in &known {
            let value = serde_json::json!({
                "index": device.index,
                "name": device.name,
                "kind": device.kind.to_string(),
                "backend": device.backend,
                "driver": device.driver,
                "max_buffer_bytes": device.max_buffer,
                "max_binding_bytes": device.max_binding,
                "shared_memory_bytes": device.shared_memory,
                "subgroup": device.subgroup,
                "half": device.half,
            });
            writeln!(out, "{value}")?;
        }
        return Ok(());
    }
    if known.is_empty() {
        writeln!(out, "no driver was found")?;
    }
    for device in &known {
        writeln!(out, "{}  {} ({}, {})", device.index, device.name, device.kind, device.backend)?;
        writeln!(out, "   driver {}", device.driver)?;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let [least, most] = device.subgroup;
        writeln!(
            out,
            "   buffers of {:.1} GiB, {:.1} GiB in one dispatch; {} KiB of shared memory; \
             subgroups of {least} to {most}{}",
            gib(device.max_buffer),
            gib(device.max_binding),
            device.shared_memory >> 10,
            if device.half { "; half floats" } else { "" }
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_of_llama_cpp_are_a_long_option() {
        let given = ["goldcrest", "run", "-ngl", "99", "-n", "5", "-ngl=all", "-nglx"];
        let words = rewritten(given.iter().map(Into::into));
        let want =
            ["goldcrest", "run", "--gpu-layers", "99", "-n", "5", "--gpu-layers=all", "-nglx"];
        assert_eq!(words, want);
    }

    #[test]
    fn a_gpu_is_used_where_one_is_asked_for() {
        let args = |device: Option<&str>, gpu_layers| {
            DeviceArgs { device: device.map(str::to_owned), gpu_layers }.is_gpu()
        };
        assert!(!args(None, None) && !args(Some("cpu"), Some(Layers::All)));
        assert!(!args(Some("0"), Some(Layers::Count(0))));
        assert!(args(Some("0"), None) && args(None, Some(Layers::Auto)));
    }
}
