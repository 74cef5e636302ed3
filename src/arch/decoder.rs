//! The family of decoders with grouped attention and gated feed-forward layers, dense or of
//! experts: llama and what followed it. [`Row`] tells its members apart.

use super::keys::{self, Keys};
use super::rows::{ROWS, Routing, Row, Windows};
use super::{Source, rope, unknown};
use crate::config::{Config, Experts, Rope, limits};
use crate::error::{Result, config_error, unsupported};
use crate::load::{Metadata, Object};
use crate::spec::{self, Attention, Block, Dense, Heads, Linear, Mixer, Named, Norm, Slots, Spec};

/// A decoder's numbers.
#[derive(Debug)]
pub(crate) struct Decoder {
    row: &'static Row,
    pub(crate) config: Config,
    /// The factor on the products of queries and keys.
    scale: f32,
    renormalise: bool,
    /// Layers without experts in a mixture.
    dense: Vec<usize>,
    sparse_step: usize,
    /// 1 where the file stores the weights of norms less 1.
    norms_plus: f32,
}

impl Decoder {
    /// Reads the numbers.
    pub(crate) fn read(source: Source<'_>) -> Result<Self> {
        let row = find(source.keys)?;
        let keys = source.keys;
        refuse_variants(keys, row)?;
        let hidden = keys.need(keys::HIDDEN)?;
        let n_heads = keys.need(keys::HEADS)?;
        let head_dim = head_dim(keys, row, hidden, n_heads)?;
        let n_layers = keys.need(keys::LAYERS)?;
        let context_length = keys.need(keys::CONTEXT)?;
        let (rope, local_rope) = ropes(source, row, head_dim, context_length)?;
        let config = Config {
            arch: row.name,
            vocab_size: vocab_size(source)?,
            hidden,
            ffn: keys.need(keys::FFN)?,
            n_layers,
            n_heads,
            n_kv_heads: kv_heads(keys, row, n_heads)?,
            head_dim,
            context_length,
            norm_eps: norm_eps(keys, row)?,
            rope,
            local_rope,
            windows: windows(keys, row, n_layers)?,
            experts: row.experts.map(|_| experts(keys)).transpose()?,
        };
        config.check()?;
        let (dense, sparse_step) = dense_layers(keys)?;
        Ok(Self {
            row,
            scale: scale(keys, row, &config)?,
            renormalise: renormalise(keys, row)?,
            dense,
            sparse_step,
            norms_plus: match keys {
                Keys::Json(_) if row.norms_from_one => 1.0,
                _ => 0.0,
            },
            config,
        })
    }

    /// The model's blocks; `tied` where the embedding is the head, too.
    ///
    /// # Errors
    /// Those of the visitor of `slots`.
    pub(crate) fn spec(&self, slots: &mut Slots<'_>, tied: bool) -> Result<Spec<Named>> {
        let Config { vocab_size: vocab, hidden, n_layers, .. } = self.config;
        let table = [vocab, hidden];
        let slots = slots.outside();
        let embed = slots.matrix("token_embd", &table)?;
        let (embed, head) =
            if tied { (None, embed) } else { (Some(embed), slots.matrix("output", &table)?) };
        let norm = self.norm(slots, "output_norm", hidden)?;
        let mut blocks = Vec::new();
        for layer in 0..n_layers {
            let slots = slots.layer(layer);
            blocks.push(self.block(slots, "attn_norm", "post_attention_norm", |slots| {
                Ok(Mixer::Attention(self.attention(slots, layer)?))
            })?);
            blocks.push(self.block(slots, "ffn_norm", "post_ffw_norm", |slots| {
                self.feed_forward(slots, layer)
            })?);
        }
        Ok(Spec {
            vocab,
            hidden,
            embed,
            embed_scale: if self.row.scaled_embedding { (hidden as f32).sqrt() } else { 1.0 },
            ropes: [&self.config.rope]
                .into_iter()
                .chain(&self.config.local_rope)
                .cloned()
                .collect(),
            blocks,
            norm,
            head,
        })
    }

    fn norm(&self, slots: &mut Slots<'_>, part: &str, len: usize) -> Result<Norm<Named>> {
        let weight = slots.tensor(&format!("{part}.weight"), &[len], self.norms_plus)?;
        Ok(Norm { weight, eps: self.config.norm_eps })
    }

    fn block(
        &self,
        slots: &mut Slots<'_>,
        pre: &str,
        post: &str,
        mixer: impl FnOnce(&mut Slots<'_>) -> Result<Mixer<Named>>,
    ) -> Result<Block<Named>> {
        let hidden = self.config.hidden;
        Ok(Block {
            pre: self.norm(slots, pre, hidden)?,
            mixer: mixer(slots)?,
            post: self.row.post_norms.then(|| self.norm(slots, post, hidden)).transpose()?,
        })
    }

    fn attention(&self, slots: &mut Slots<'_>, layer: usize) -> Result<Attention<Named>> {
        let Config { hidden, n_heads, n_kv_heads, head_dim, .. } = self.config;
        let window = self.config.windows[layer];
        let heads = Heads { n_heads, n_kv_heads, head_dim, window, scale: self.scale };
        let mut linear = |part: &str, rows: usize| -> Result<Linear<Named>> {
            let bias = self.row.qkv_bias;
            let bias = bias.then(|| slots.tensor(&format!("{part}.bias"), &[rows], 0.0));
            Ok(Linear { bias: bias.transpose()?, matrix: slots.matrix(part, &[rows, hidden])? })
        };
        let (q, kv) = (heads.q(), heads.kv());
        let qkv = [linear("attn_q", q)?, linear("attn_k", kv)?, linear("attn_v", kv)?];
        let qk_norm = if self.row.qk_norm {
            let mut norm = |part| self.norm(slots, part, head_dim);
            Some([norm("attn_q_norm")?, norm("attn_k_norm")?])
        } else {
            None
        };
        let output = slots.matrix("attn_output", &[hidden, q])?;
        let local = window.is_some() && self.config.local_rope.is_some();
        Ok(Attention { heads, qkv, qk_norm, output, rope: usize::from(local) })
    }

    fn feed_forward(&self, slots: &mut Slots<'_>, layer: usize) -> Result<Mixer<Named>> {
        let Config { hidden, ffn, experts, .. } = self.config;
        let act = self.row.act;
        if let Some(Experts { count, used, ffn }) = experts
            && !self.dense.contains(&layer)
            && (layer + 1).is_multiple_of(self.sparse_step)
        {
            return Ok(Mixer::Experts(spec::Experts {
                count,
                used,
                ffn,
                act,
                renormalise: self.renormalise,
                router: slots.matrix("ffn_gate_inp", &[count, hidden])?,
                bank: [
                    slots.matrix("ffn_gate_exps", &[count, ffn, hidden])?,
                    slots.matrix("ffn_up_exps", &[count, ffn, hidden])?,
                    slots.matrix("ffn_down_exps", &[count, hidden, ffn])?,
                ],
            }));
        }
        let mut matrix = |part, shape| slots.matrix(part, shape);
        Ok(Mixer::Dense(Dense {
            ffn,
            act,
            gate_up: [matrix("ffn_gate", &[ffn, hidden])?, matrix("ffn_up", &[ffn, hidden])?],
            down: matrix("ffn_down", &[hidden, ffn])?,
        }))
    }
}

fn find(keys: Keys) -> Result<&'static Row> {
    let row = match keys {
        Keys::Json(json) => {
            let name = json.need("model_type", json.str("model_type")?)?;
            ROWS.iter().find(|row| row.name == name).ok_or_else(|| unknown(name))?
        }
        Keys::Gguf { arch, .. } => {
            let experts = keys.count(keys::EXPERTS.key())?.is_some_and(|n| n > 0);
            let named = |row: &&Row| row.gguf == arch;
            let fits = ROWS.iter().filter(named).find(|row| row.experts.is_some() == experts);
            fits.or_else(|| ROWS.iter().find(named)).ok_or_else(|| unknown(arch))?
        }
    };
    Ok(row)
}

/// Keys that change what the architecture computes.
fn refuse_variants(keys: Keys, row: &Row) -> Result<()> {
    let json = match keys {
        Keys::Gguf { metadata, arch } => return refuse_in_gguf(keys, metadata, arch, row),
        Keys::Json(json) => json,
    };
    let refuse = |key: &str, value: &dyn std::fmt::Display| {
        Err(unsupported(format!("key \"{key}\": {value} is not supported with {}", row.name)))
    };
    for key in ["attention_bias", "mlp_bias", "use_bidirectional_attention"] {
        // qwen2 has its biases whatever the key says.
        if json.bool(key)? == Some(true) && !(row.qkv_bias && key.ends_with("bias")) {
            return refuse(key, &true);
        }
    }
    for key in ["hidden_act", "hidden_activation"] {
        if let Some(act) = json.get(key)
            && !act.as_str().is_some_and(|name| row.act_names.contains(&name))
        {
            return refuse(key, act);
        }
    }
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if let Some(cap) = json.get(key) {
            return refuse(key, cap);
        }
    }
    if let Some(quantization) = json.get("quantization_config") {
        let method = quantization.get("quant_method").unwrap_or(&serde_json::Value::Null);
        return refuse("quantization_config", method);
    }
    Ok(())
}

fn refuse_in_gguf(keys: Keys, metadata: &Metadata, arch: &str, row: &Row) -> Result<()> {
    let refuse = |key: &str, problem: &dyn std::fmt::Display| {
        Err(unsupported(format!("key \"{arch}.{key}\": {problem}")))
    };
    if let Some(experts) = keys.count(keys::EXPERTS.key())?
        && experts > 0
        && row.experts.is_none()
    {
        let problem = format!("mixtures of {experts} experts are not supported with {arch}");
        return refuse("expert_count", &problem);
    }
    if keys.bool(keys::CAUSAL)? == Some(false) {
        return refuse("attention.causal", &"attention in both directions is not supported");
    }
    let normed = format!("{arch}.expert_weights_norm");
    if metadata.get_bool(&normed)? == Some(false) {
        return refuse("expert_weights_norm", &format!("false is not supported with {arch}"));
    }
    // The value without an effect: none, or softmax.
    for (key, neutral) in [
        ("attn_logit_softcapping", 0.0),
        ("final_logit_softcapping", 0.0),
        ("expert_shared_count", 0.0),
        ("expert_gating_func", 1.0),
        ("expert_weights_scale", 1.0),
        ("attention.scale", 0.0),
        ("logit_scale", 1.0),
        ("residual_scale", 1.0),
        ("embedding_scale", 1.0),
    ] {
        let name = format!("{arch}.{key}");
        let number = match metadata.get(&name) {
            Some(crate::load::Value::F32(x)) => f64::from(*x),
            Some(_) => metadata.get_u64(&name)?.unwrap_or(0) as f64,
            None => continue,
        };
        if number != neutral && number != 0.0 {
            return refuse(key, &format!("{number} is not supported with {arch}"));
        }
    }
    Ok(())
}

fn norm_eps(keys: Keys, row: &Row) -> Result<f32> {
    match (keys.f32(keys::EPS)?, keys) {
        (Some(eps), _) => Ok(eps),
        (None, Keys::Json(_)) => Ok(row.eps),
        (None, Keys::Gguf { .. }) => Err(keys.error(keys::EPS, "is missing")),
    }
}

fn head_dim(keys: Keys, row: &Row, hidden: usize, n_heads: usize) -> Result<usize> {
    let key = keys::HEAD_DIM;
    let default = row.head_dim.filter(|_| matches!(keys, Keys::Json(_)) && !keys.has(key.key()));
    let dim = match keys.size(key)?.or(default) {
        Some(dim) => dim,
        None if hidden.is_multiple_of(n_heads) => hidden / n_heads,
        None => {
            let problem = format!("is missing, and {hidden} is no multiple of {n_heads} heads");
            return Err(keys.error(key.key(), problem));
        }
    };
    match keys {
        Keys::Gguf { .. } => match keys.size(keys::VALUE_DIM)? {
            Some(value) if value != dim => Err(unsupported(format!(
                "keys of {dim} and values of {value} dimensions are not supported"
            ))),
            _ => Ok(dim),
        },
        Keys::Json(_) => Ok(dim),
    }
}

fn kv_heads(keys: Keys, row: &Row, n_heads: usize) -> Result<usize> {
    let key = keys::KV_HEADS;
    if let Some(n) = keys.size(key)? {
        return Ok(n);
    }
    // In a config.json, null always means as many; absent, transformers' default is that for llama
    // alone.
    let same = row.kv_heads_default || matches!(keys, Keys::Gguf { .. }) || keys.has(key.key());
    if same { Ok(n_heads) } else { Err(keys.error(key.key(), "is missing")) }
}

/// The embedding's rows are what the pass uses; a key that says otherwise is found by the check of
/// the shapes.
fn vocab_size(source: Source<'_>) -> Result<usize> {
    if let Some(size) = source.keys.size(keys::VOCAB)? {
        return Ok(size);
    }
    if let Keys::Json(_) = source.keys {
        return source.keys.need(keys::VOCAB);
    }
    source
        .embedding_rows
        .filter(|rows| (1..=limits::VOCAB).contains(rows))
        .ok_or_else(|| config_error("the file has neither an embedding nor a vocabulary"))
}

/// The model's rope, and the one of its layers with a window where that is another.
fn ropes(
    source: Source<'_>,
    row: &Row,
    head_dim: usize,
    context: usize,
) -> Result<(Rope, Option<Rope>)> {
    let keys = source.keys;
    let gemma = row.windows == Windows::Gemma;
    let rope = match keys {
        Keys::Json(json) => {
            let kind = gemma.then_some("full_attention");
            rope::from_json(json, kind, row.theta, head_dim, context)?
        }
        Keys::Gguf { .. } => {
            rope::from_gguf(keys, source.rope_factors, row.gguf_rope, head_dim, context)?
        }
    };
    if !gemma {
        return Ok((rope, None));
    }
    let local = match keys {
        Keys::Json(json) => rope::local_from_json(json, head_dim, context)?,
        Keys::Gguf { .. } => None,
    };
    let local = match local {
        Some(local) => local,
        None => Rope {
            theta: keys.f32(keys::LOCAL_THETA)?.unwrap_or(10_000.0),
            scaling: crate::config::RopeScaling::None,
            ..rope.clone()
        },
    };
    Ok((rope, Some(local)))
}

fn scale(keys: Keys, row: &Row, config: &Config) -> Result<f32> {
    let Config { hidden, n_heads, n_layers, head_dim, .. } = *config;
    let width = match keys {
        _ if row.windows != Windows::Gemma => head_dim as f32,
        // GGUF has no key for it; llama.cpp, too, tells the one model that differs by its depth.
        Keys::Gguf { .. } if n_layers == 62 => hidden as f32 / n_heads as f32,
        Keys::Gguf { .. } => head_dim as f32,
        Keys::Json(json) => match json.f32("query_pre_attn_scalar")? {
            None => 256.0,
            Some(width) if width.is_finite() && width > 0.0 => width,
            Some(width) => {
                return Err(json.error("query_pre_attn_scalar", format_args!("is {width}")));
            }
        },
    };
    Ok(1.0 / width.sqrt())
}

fn experts(keys: Keys) -> Result<Experts> {
    let count = keys.need(keys::EXPERTS)?;
    // Mixtral's experts are as wide as the key of dense layers says.
    let ffn = match keys.size(keys::EXPERT_FFN)? {
        Some(ffn) => ffn,
        None => keys.need(keys::FFN)?,
    };
    Ok(Experts { count, used: keys.need(keys::EXPERTS_USED)?, ffn })
}

fn renormalise(keys: Keys, row: &Row) -> Result<bool> {
    Ok(match (row.experts, keys) {
        (Some(Routing::AsTheFileSays), Keys::Json(json)) => {
            json.bool("norm_topk_prob")?.unwrap_or(false)
        }
        _ => true,
    })
}

/// The layers of a mixture that are dense, and that experts come every so many layers.
fn dense_layers(keys: Keys) -> Result<(Vec<usize>, usize)> {
    let Keys::Json(json) = keys else { return Ok((Vec::new(), 1)) };
    let list = json.get("mlp_only_layers").map(|list| {
        let layers = list.as_array()?.iter();
        layers.map(|layer| layer.as_u64()?.try_into().ok()).collect::<Option<Vec<usize>>>()
    });
    let layers = list
        .map(|list| list.ok_or_else(|| json.error("mlp_only_layers", "is not a list of layers")));
    let step = json.usize("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(json.error("decoder_sparse_step", "is 0"));
    }
    Ok((layers.transpose()?.unwrap_or_default(), step))
}

/// The sliding window of each layer.
fn windows(keys: Keys, row: &Row, n_layers: usize) -> Result<Vec<Option<usize>>> {
    match keys {
        Keys::Json(json) => windows_json(json, row, n_layers),
        Keys::Gguf { metadata, arch } => {
            let window = keys.count(keys::WINDOW.key())?.filter(|&window| window > 0);
            let window = window.map(|window| window.min(limits::CONTEXT));
            if row.windows != Windows::Gemma {
                return Ok(vec![window; n_layers]);
            }
            let key = format!("{arch}.attention.sliding_window_pattern");
            let every = metadata.get_u64(&key)?.unwrap_or(6);
            if every == 0 {
                return Err(config_error(format!("key \"{key}\" is 0")));
            }
            let slides = |layer: usize| !(layer as u64 + 1).is_multiple_of(every);
            Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect())
        }
    }
}

/// As in transformers: `layer_types` decides where it is there; otherwise mistral slides in every
/// layer, qwen in those from `max_window_layers` on, gemma in all but every sixth. A qwen slides
/// only with `use_sliding_window`.
fn windows_json(json: Object, row: &Row, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let keys = Keys::Json(json);
    let given = keys.size(keys::WINDOW)?;
    let absent = !keys.has(keys::WINDOW.key());
    let window = given.or(absent.then_some(4096));
    let (window, slides): (_, Box<dyn Fn(usize) -> bool>) = match row.windows {
        Windows::Llama => (None, Box::new(|_| false)),
        // What transformers' class has by default: mistral a window, mixtral none.
        Windows::Mistral if row.experts.is_some() => (given, Box::new(|_| true)),
        Windows::Mistral => (window, Box::new(|_| true)),
        Windows::Qwen => {
            let used = json.bool("use_sliding_window")?.unwrap_or(false);
            let first = json.usize("max_window_layers")?.unwrap_or(28);
            let first = if row.experts.is_some() { 0 } else { first };
            (window.filter(|_| used), Box::new(move |layer| layer >= first))
        }
        Windows::Gemma => {
            let every = match json.usize("sliding_window_pattern")? {
                None => json.usize("_sliding_window_pattern")?.unwrap_or(6),
                Some(every) => every,
            };
            if every == 0 {
                return Err(json.error("sliding_window_pattern", "is 0"));
            }
            (window, Box::new(move |layer| !(layer + 1).is_multiple_of(every)))
        }
    };
    let Some(types) = json.get("layer_types") else {
        return Ok((0..n_layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    let types = types.as_array().filter(|types| types.len() == n_layers).ok_or_else(|| {
        json.error("layer_types", format_args!("is not a list of {n_layers} names"))
    })?;
    let slides = |value: &serde_json::Value| match value.as_str() {
        Some("full_attention") => Ok(None),
        Some("sliding_attention") if window.is_some() => Ok(window),
        Some("sliding_attention") => {
            Err(json.error("layer_types", "has sliding layers, but there is no sliding window"))
        }
        _ => Err(unsupported(format!("key \"layer_types\": {value} is not supported"))),
    };
    types.iter().map(slides).collect()
}
