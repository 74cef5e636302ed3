//! A writer of GGUF files, correct ones and wrong ones.

/// Numbers of value types.
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A tensor to be written; `offset` replaces the one that the writer would give it.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Outermost first, as the library shows it.
    pub shape: Vec<u64>,
    pub ty: u32,
    pub data: Vec<u8>,
    pub offset: Option<u64>,
}

/// A GGUF file to be written.
#[derive(Clone)]
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    pub alignment: usize,
    /// Replaces the number of keys.
    pub n_keys: Option<u64>,
    /// Replaces the number of tensors.
    pub n_tensors: Option<u64>,
}

impl Default for Gguf {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            n_keys: None,
            n_tensors: None,
        }
    }
}

pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The type of a key's value in a file, and where the value is.
pub fn value_of(file: &[u8], key: &str) -> (u32, usize) {
    let entry = string(key);
    let at = file.windows(entry.len()).position(|window| window == entry);
    let at = at.unwrap_or_else(|| panic!("no key {key}")) + entry.len();
    (u32::from_le_bytes(file[at..at + 4].try_into().unwrap()), at + 4)
}

impl Gguf {
    /// Adds a key, or replaces its value.
    pub fn raw(&mut self, key: &str, ty: u32, value: impl Into<Vec<u8>>) -> &mut Self {
        let entry = (key.as_bytes().to_vec(), ty, value.into());
        match self.keys.iter_mut().find(|(name, ..)| name == key.as_bytes()) {
            Some(old) => *old = entry,
            None => self.keys.push(entry),
        }
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.raw(key, U32, value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.raw(key, F32, value.to_le_bytes())
    }

    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.raw(key, STRING, string(value))
    }

    pub fn strings(&mut self, key: &str, values: &[String]) -> &mut Self {
        let mut bytes = STRING.to_le_bytes().to_vec();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| bytes.extend(string(value)));
        self.raw(key, ARRAY, bytes)
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(name, ..)| name != key.as_bytes());
        self
    }

    /// An F32 tensor of small numbers.
    pub fn f32_tensor(&mut self, name: &str, shape: &[u64]) -> &mut Self {
        let count: u64 = shape.iter().product();
        let data = (0..count).flat_map(|i| ((i % 7) as f32 * 0.125).to_le_bytes()).collect();
        self.tensor(name, shape, 0, data)
    }

    pub fn tensor(&mut self, name: &str, shape: &[u64], ty: u32, data: Vec<u8>) -> &mut Self {
        self.tensors.push(Tensor {
            name: name.into(),
            shape: shape.into(),
            ty,
            data,
            offset: None,
        });
        self
    }

    pub fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub fn build(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, ty, value) in &self.keys {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend(key);
            out.extend(ty.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(string(&tensor.name));
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }
}

/// A whole model of one layer: width 32, 4 heads, 2 of them for keys and values, 24 tokens.
pub fn tiny(arch: &str) -> Gguf {
    let mut file = Gguf::default();
    let key = |name: &str| format!("{arch}.{name}");
    file.str("general.architecture", arch)
        .u32(&key("block_count"), 1)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 32)
        .u32(&key("feed_forward_length"), 48)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .str("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &(0..24).map(|i| format!("t{i}")).collect::<Vec<_>>())
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    for (name, shape) in [
        ("token_embd.weight", &[24u64, 32][..]),
        ("output_norm.weight", &[32]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[16, 32]),
        ("blk.0.attn_v.weight", &[16, 32]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("blk.0.ffn_gate.weight", &[48, 32]),
        ("blk.0.ffn_up.weight", &[48, 32]),
        ("blk.0.ffn_down.weight", &[32, 48]),
    ] {
        file.f32_tensor(name, shape);
    }
    file
}
