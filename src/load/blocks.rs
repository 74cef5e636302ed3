//! The blocks of a model in words.

use serde::Serialize;

use crate::spec::{Attention, Experts, LowRank, Mixer, Named, Spec, Up};

/// Blocks of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BlockCount {
    /// How many.
    pub count: usize,
    /// What they are, e.g. `attention, 8 heads of 64 on 2, window 512`.
    pub kind: String,
    /// Whether there are kernels of it for GPUs; formats of weights may still keep a block on the CPU.
    pub on_gpus: bool,
}

/// The kinds of a model's blocks in the order in which they first occur. A block of parallel branches
/// counts for each of them.
pub(super) fn count(spec: &Spec<Named>) -> Vec<BlockCount> {
    let mut counts: Vec<BlockCount> = Vec::new();
    for mixer in spec.mixers() {
        let (kind, on_gpus) = (describe(mixer), mixer.on_gpus());
        match counts.iter_mut().find(|count| count.kind == kind) {
            Some(known) => known.count += 1,
            None => counts.push(BlockCount { count: 1, kind, on_gpus }),
        }
    }
    counts
}

fn describe(mixer: &Mixer<Named>) -> String {
    match mixer {
        Mixer::Attention(attention) => attention_kind(attention),
        Mixer::Latent(latent) => {
            let heads = latent.heads;
            let (query, value) = (heads.query(), heads.value);
            format!(
                "latent attention, {} heads of {query} and {value} on latents of {} and keys of {}",
                heads.n_heads, heads.rank, heads.rope
            )
        }
        Mixer::DeltaNet(net) => {
            let heads = &net.heads;
            let (keys, values) = (heads.n_k, heads.n_v);
            format!(
                "gated delta rule, {values} states of {} by {} on {keys} keys",
                heads.d_k, heads.d_v
            )
        }
        Mixer::Mamba(mamba) => {
            let heads = &mamba.heads;
            format!(
                "state space, {} states of {} by {}",
                heads.n_heads, heads.d_state, heads.head_dim
            )
        }
        Mixer::ShortConv(conv) => {
            format!("short convolution over {} tokens", conv.conv.taps)
        }
        Mixer::Dense(dense) => match dense.up {
            Up::Gated(_) => format!("gated feed-forward of {}", dense.ffn),
            Up::Sparse(..) => format!("gated feed-forward of {}, few gates", dense.ffn),
            Up::Plain(_) => format!("feed-forward of {}", dense.ffn),
        },
        Mixer::Experts(Experts { count, used, ffn, .. }) => {
            format!("mixture, {used} of {count} experts of {ffn}")
        }
        Mixer::LayerInput(_) => "input of the layer".into(),
        Mixer::LowRank(LowRank { left, .. }) => format!("low-rank path of {}", left.shape[0]),
        Mixer::Identity => "what attention reads, as it is".into(),
        Mixer::Predict(predict) => format!("prediction of {} streams", predict.router.count),
        Mixer::Correct(correct) => format!("correction of {} streams", correct.router.count),
    }
}

fn attention_kind(attention: &Attention<Named>) -> String {
    let heads = attention.heads;
    let mut kind = format!("attention, {} heads of {}", heads.n_heads, heads.head_dim);
    let mut add = |part: String| {
        kind.push_str(&part);
    };
    if heads.n_kv_heads != heads.n_heads {
        add(format!(" on {}", heads.n_kv_heads));
    }
    if let Some(window) = heads.window {
        add(format!(", window {window}"));
    }
    if attention.gated {
        add(", gated".into());
    }
    if attention.rope.is_none() {
        add(", without rope".into());
    }
    if attention.kv.is_none() {
        add(", keys and values of an earlier block".into());
    }
    kind
}

#[cfg(test)]
mod tests {
    use crate::load::{Checkpoint, ReadOptions};
    use crate::synthetic::{Mixture, Shape, save};

    #[test]
    fn kinds_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.gguf");
        let shape = Shape {
            name: "tiny",
            hidden: 64,
            ffn: 96,
            n_layers: 6,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            vocab: 300,
            window: Some(8),
            ..Shape::by_name("gemma-3-270m").unwrap().clone()
        };
        save(&shape, Mixture::by_name("f16").unwrap(), 1, &path).unwrap();
        let checkpoint = Checkpoint::open(&path, &ReadOptions::default()).unwrap();
        let kinds: Vec<_> = checkpoint
            .describe()
            .blocks
            .into_iter()
            .map(|block| format!("{} {}", block.count, block.kind))
            .collect();
        assert_eq!(
            kinds,
            [
                "5 attention, 4 heads of 16 on 2, window 8",
                "6 gated feed-forward of 96",
                "1 attention, 4 heads of 16 on 2",
            ]
        );
    }
}
