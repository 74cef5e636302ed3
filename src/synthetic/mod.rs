//! Models of random weights in the shapes of real ones, to measure speed without a download.
//!
//! A file from here is read as any other: its metadata are complete, its tokenizer encodes every
//! text, its types are the ones that llama.cpp's quantiser would choose. What it generates means
//! nothing.
//!
//! ```
//! use goldcrest::synthetic::{Mixture, Shape};
//! let shape = Shape::by_name("smollm2-135m").unwrap();
//! let mixture = Mixture::by_name("q4_k_m").unwrap();
//! assert_eq!(shape.parameters().unwrap(), 134_515_008);
//! // No row of 576 fills blocks of 256: the type for rows of any multiple of 32 stands in.
//! let ty = mixture.type_of("blk.9.attn_q.weight", &[576, 576], shape.n_layers, shape.tied);
//! assert_eq!(ty.to_string(), "Q5_0");
//! ```

mod mixture;
mod shape;
mod shapes;
mod vocabulary;
mod weights;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::arch::ROPE_FREQS;
use crate::error::{Error, Result, input_error};
use crate::load::{GgufEntry as Entry, Metadata, Value, gguf_padding, write_gguf_header};
pub use mixture::Mixture;
pub use shape::{More, RopeFactors, Shape};
pub use weights::{fill, random_rows};

/// Bytes of weights made before they are written.
const BATCH: usize = 64 << 20;

/// Writes a GGUF file of random weights. The same seed gives the same bytes.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where the file cannot be written,
/// [`ErrorKind::Input`](crate::ErrorKind::Input) for a shape whose rows fill no whole blocks.
pub fn save(shape: &Shape, mixture: &Mixture, seed: u64, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let metadata = metadata(shape, mixture)?;
    let entries = entries(shape, mixture)?;
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    let mut out = BufWriter::new(file);
    write(&mut out, shape, seed, &metadata, &entries).map_err(|e| Error::io(path, e))
}

fn write(
    out: &mut impl Write,
    shape: &Shape,
    seed: u64,
    metadata: &Metadata,
    entries: &[Entry],
) -> io::Result<()> {
    write_gguf_header(out, metadata, entries)?;
    let mut buffer = Vec::new();
    for (entry, number) in entries.iter().zip(1u64..) {
        let block = entry.ty.block_bytes() as u64;
        let batch = BATCH as u64 / block * block;
        let mut done = 0;
        while done < entry.bytes {
            buffer.resize((entry.bytes - done).min(batch) as usize, 0);
            let seed = seed ^ ((number << 32) | (done / batch));
            values(shape, entry, seed, &mut buffer);
            out.write_all(&buffer)?;
            done += buffer.len() as u64;
        }
        out.write_all(gguf_padding(entry.bytes))?;
    }
    out.flush()
}

/// Writes a part of a tensor.
fn values(shape: &Shape, entry: &Entry, seed: u64, out: &mut [u8]) {
    let mut floats = |value: &dyn Fn(usize) -> f32| {
        for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            *out = value(i).to_le_bytes();
        }
    };
    if entry.name == ROPE_FREQS {
        let factors = shape.rope_factors().unwrap_or_default();
        floats(&|i| factors[i]);
    } else if entry.name.ends_with("ssm_a") {
        // How fast a state forgets: less than nothing.
        floats(&|i| -0.1 - (i % 16) as f32 / 4.0);
    } else if entry.name.contains("norm") || entry.name.ends_with("output_scale.weight") {
        floats(&|_| 1.0);
    } else if entry.name.ends_with(".bias") {
        fill(entry.ty, 0.1, seed, out);
    } else {
        let k = entry.shape[entry.shape.len() - 1];
        fill(entry.ty, 1.0 / (k as f32).sqrt(), seed, out);
    }
}

fn entries(shape: &Shape, mixture: &Mixture) -> Result<Vec<Entry>> {
    let mut tensors = shape.tensors()?;
    if let Some(factors) = shape.rope_factors() {
        tensors.push((ROPE_FREQS.into(), vec![factors.len()]));
    }
    let entry = |(name, dims): (String, Vec<usize>)| {
        let ty = mixture.type_of(&name, &dims, shape.n_layers, shape.tied);
        let k = dims[dims.len() - 1];
        let row: Option<usize> = ty.bytes_for(k);
        let row = row.ok_or_else(|| input_error(format!("no rows of {k} in {ty}")))?;
        let rows: usize = dims[..dims.len() - 1].iter().product();
        Ok(Entry { name, shape: dims, ty, bytes: (rows * row) as u64 })
    };
    tensors.into_iter().map(entry).collect()
}

fn metadata(shape: &Shape, mixture: &Mixture) -> Result<Metadata> {
    let mut metadata = shape.keys()?;
    metadata.insert("general.architecture", Value::String(shape.arch.into()))?;
    metadata.insert("general.name", Value::String(shape.name.into()))?;
    metadata.insert("general.file_type", Value::U32(mixture.file_type))?;
    metadata.insert("general.quantization_version", Value::U32(2))?;
    vocabulary::describe(shape, &mut metadata)?;
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Checkpoint, ReadOptions};
    use crate::model::Model;

    fn tiny(arch: &'static str, tied: bool) -> Shape {
        Shape {
            name: "tiny",
            arch,
            hidden: 256,
            ffn: 512,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 64,
            vocab: 512,
            tied,
            rope_theta: 1e4,
            rope_factors: (arch == "llama").then_some(RopeFactors::Llama3),
            norm_eps: 1e-5,
            context_length: 64,
            window: (arch == "gemma3").then_some(8),
            experts: (arch == "qwen3moe").then_some([4, 2, 256]),
            pre: "qwen2",
            more: &[],
        }
    }

    #[test]
    fn every_mixture_loads_and_runs() {
        let dir = tempfile::tempdir().unwrap();
        for mixture in Mixture::ALL {
            let path = dir.path().join(format!("{mixture}.gguf"));
            let tied = mixture.file_type.is_multiple_of(2);
            for arch in ["llama", "qwen2", "qwen3", "gemma3", "qwen3moe"] {
                let shape = tiny(arch, tied);
                save(&shape, mixture, 1, &path).unwrap();
                let checkpoint = Checkpoint::open(&path, &ReadOptions::default()).unwrap();
                checkpoint.check().unwrap();
                assert_eq!(checkpoint.config().unwrap(), shape.config().unwrap());

                let model = Model::loader(&path).threads(1).load().unwrap();
                model.tokenizer().unwrap();
                let mut session = model.session().unwrap();
                session.push(&[1, 2, 3]).unwrap();
                let logits = session.logits().unwrap();
                let square = logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32;
                assert!((0.3..3.0).contains(&square), "{arch} {mixture}: {square}");
                // What a token reads: all but the embedding's other rows, and 3% of padding.
                let matrices: u64 = checkpoint
                    .tensors()
                    .iter()
                    .filter(|t| t.shape.len() > 1 && (tied || t.name != "token_embd.weight"))
                    // Two of four experts.
                    .map(|t| t.byte_len() as u64 / (t.shape.len() as u64 - 1))
                    .sum();
                let read = model.weight_bytes() as f64 / matrices as f64;
                assert!((0.99..1.1).contains(&read), "{arch} {mixture}: {read}");
            }
        }
    }

    #[test]
    fn a_seed_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let shape = tiny("qwen2", false);
        let file = |name: &str, seed| {
            let path = dir.path().join(name);
            save(&shape, Mixture::by_name("q4_0").unwrap(), seed, &path).unwrap();
            std::fs::read(path).unwrap()
        };
        assert_eq!(file("a", 1), file("b", 1));
        assert_ne!(file("a", 1), file("c", 2));
    }

    #[test]
    fn mixtures_take_their_name_apart() {
        for mixture in Mixture::ALL {
            assert_eq!(Mixture::by_file_type(mixture.file_type), Some(mixture));
        }
    }
}
