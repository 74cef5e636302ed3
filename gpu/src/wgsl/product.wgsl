// What products of one row and of many have in common.

/// A matrix whose rows are some columns of the product.
struct Part {
    /// Vectors of `w` before its first panel, and from one panel to the next.
    at: u32,
    stride: u32,
    rows: u32,
    /// The first of its panels among all of the product.
    first: u32,
    /// Its first column.
    out: u32,
    bias: u32,
    factor: f32,
    format: u32,
}

struct Params {
    k: u32,
    /// From one row to the next, in vectors.
    x_stride: u32,
    out_stride: u32,
    /// Of `pass_`: how many rows there are.
    count: u32,
    /// On what is added to the output.
    scale: f32,
    activation: u32,
    limit: f32,
    parts: u32,
    /// What is normalised before the product.
    norm: u32,
    norm_bias: u32,
    eps: f32,
    /// What was made and not yet added: see `stage`.
    post: u32,
    post_eps: f32,
    mix: f32,
    block_scale: f32,
    cap: f32,
    /// Experts of a row.
    used: u32,
    row_factor: u32,
    /// Where the factors of experts' matrices are in the bank.
    factors: u32,
    pad: u32,
    part: array<Part, 3>,
}

const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(0) @binding(4) var<storage, read> vectors: array<f32>;
@group(0) @binding(5) var<uniform> pass_: vec4<u32>;
#if PENDING
@group(0) @binding(6) var<storage, read> mixed: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> x_out: array<vec4<f32>>;
#endif
#if EXPERT
struct Choice { expert: u32, weight: f32 }
@group(0) @binding(8) var<storage, read> choices: array<Choice>;
/// Of each expert: where each of its matrices begins in `w`.
@group(0) @binding(9) var<storage, read> bank: array<u32>;
#endif
#if ROW_FACTOR
@group(0) @binding(10) var<storage, read> row_factors: array<f32>;
#endif

fn biased(bias: u32, column: u32, value: f32) -> f32 {
    if bias == NONE {
        return value;
    }
    return value + vectors[bias + column];
}

/// Writes a product, of column `column` of the part.
fn finish(part: Part, row: u32, column: u32, product: f32) {
    let at = row * p.out_stride + part.out + column;
    var value = biased(part.bias, column, product * part.factor);
#if ROW_FACTOR
    value *= row_factors[row * p.row_factor];
#endif
#if ADD
    out[at] += p.scale * value;
#else
#if CAP
    value = p.cap * tanh(value * p.scale / p.cap);
    out[at] = value;
#else
    out[at] = activation(p.activation, p.scale * value);
#endif
#endif
}

/// Of a gate and what it opens.
fn gated(gate: f32, up: f32) -> f32 {
#if CLAMPED
    let g = min(gate, p.limit);
    return g * sigmoid(1.702 * g) * (clamp(up, -p.limit, p.limit) + 1.0);
#else
    return activation(p.activation, gate) * up;
#endif
}
