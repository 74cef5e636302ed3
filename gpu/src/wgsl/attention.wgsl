// What the kernels of attention have in common: heads in shared memory, normalised and rotated; keys
// and values on the device.

const D = $D$u;
const PAIRS = D / 2u;
const THREADS = $THREADS$u;
const HEADS = $HEADS$u;
const NONE = 0xffffffffu;

struct Params {
    heads: u32,
    kv_heads: u32,
    group: u32,
    /// Of a row of queries, keys and values.
    stride: u32,
    q: u32,
    /// From one query to the next: a gate may follow each.
    q_step: u32,
    k: u32,
    v: u32,
    scale: f32,
    cap: f32,
    window: u32,
    sinks: u32,
    /// Pairs that are rotated, and where their angles are in a row of them.
    rotated: u32,
    angles: u32,
    angles_stride: u32,
    pairs_apart: u32,
    norms_last: u32,
    gated: u32,
    temperature: f32,
    temperature_step: u32,
    out_stride: u32,
    stores: u32,
    pad0: u32,
    pad1: u32,
    /// Of queries, keys and values: weight, bias, epsilon, whether the mean is subtracted.
    norms: array<vec4<u32>, 3>,
}

/// The rows of one text: `rows` from `first` of the pass on, at the positions from `start` on.
struct Run {
    first: u32,
    rows: u32,
    start: u32,
    /// How its positions are cut, and the chunks of the texts before it.
    chunks: u32,
    chunk: u32,
    chunks_before: u32,
    /// Positions of its cache.
    positions: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> angles: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;
@group(1) @binding(0) var<uniform> run: Run;
/// `[head][position / 32][pair][position % 32]`
@group(1) @binding(1) var<storage, read_write> keys: array<$CELL$>;
/// `[head][position][pair]`
@group(1) @binding(2) var<storage, read_write> values: array<$CELL$>;

#if HALF
fn cell(v: vec2<f32>) -> u32 {
    return pack2x16float(v);
}
fn pair(c: u32) -> vec2<f32> {
    return unpack2x16float(c);
}
#else
fn cell(v: vec2<f32>) -> vec2<f32> {
    return v;
}
fn pair(c: vec2<f32>) -> vec2<f32> {
    return c;
}
#endif

fn key_at(head: u32, position: u32, e: u32) -> u32 {
    return head * run.positions * PAIRS + (position / 32u * PAIRS + e) * 32u + position % 32u;
}

fn value_at(head: u32, position: u32, e: u32) -> u32 {
    return head * run.positions * PAIRS + position * PAIRS + e;
}

/// Of one head after another.
var<workgroup> heads: array<f32, $ROOM$>;
var<workgroup> lane_sums: array<f32, THREADS>;

/// Threads that share a head.
const LANES = $LANES$u;
const AT_ONCE = THREADS / LANES;

/// Adds up what the lanes of each head have.
fn sum_lanes(t: u32, own: f32) -> f32 {
    workgroupBarrier();
    lane_sums[t] = own;
    workgroupBarrier();
    for (var n = LANES / 2u; n > 0u; n /= 2u) {
        if t % LANES < n {
            lane_sums[t] += lane_sums[t + n];
        }
        workgroupBarrier();
    }
    return lane_sums[t - t % LANES];
}

/// Normalises the heads. `kind`: 0 of queries, 1 of keys, 2 of values.
fn normalise(t: u32, fixed: u32) {
    for (var round = 0u; round < HEADS; round += AT_ONCE) {
        let h = round + t / LANES;
        let norm = p.norms[kind_of(h, fixed)];
        let works = h < HEADS && norm.x != NONE;
        let at = min(h, HEADS - 1u) * D;
        var own = 0.0;
        if works && norm.w != 0u {
            for (var i = t % LANES; i < D; i += LANES) {
                own += heads[at + i];
            }
        }
        let mean = select(0.0, sum_lanes(t, own) / f32(D), norm.w != 0u);
        own = 0.0;
        if works {
            for (var i = t % LANES; i < D; i += LANES) {
                let v = heads[at + i] - mean;
                own += v * v;
            }
        }
        let factor = 1.0 / sqrt(sum_lanes(t, own) / f32(D) + bitcast<f32>(norm.z));
        if works {
            for (var i = t % LANES; i < D; i += LANES) {
                var v = (heads[at + i] - mean) * factor * vectors[norm.x + i];
                if norm.y != NONE {
                    v += vectors[norm.y + i];
                }
                heads[at + i] = v;
            }
        }
    }
    workgroupBarrier();
}

/// Rotates queries and keys to the position of the row.
fn rotate(t: u32, fixed: u32, row: u32) {
    for (var n = t; n < HEADS * p.rotated; n += THREADS) {
        let h = n / p.rotated;
        let i = n % p.rotated;
        if kind_of(h, fixed) == 2u {
            continue;
        }
        let origin = row * p.angles_stride + p.angles;
        let cos = angles[origin + i];
        let sin = angles[origin + p.rotated + i];
        var a = h * D + i;
        var b = a + p.rotated;
        if p.pairs_apart == 0u {
            a = h * D + 2u * i;
            b = a + 1u;
        }
        let x = heads[a];
        let y = heads[b];
        heads[a] = x * cos - y * sin;
        heads[b] = y * cos + x * sin;
    }
    workgroupBarrier();
}

fn turn(t: u32, fixed: u32, row: u32) {
    let norms = p.norms[0].x != NONE || p.norms[1].x != NONE || p.norms[2].x != NONE;
    workgroupBarrier();
    if norms && p.norms_last == 0u {
        normalise(t, fixed);
    }
    rotate(t, fixed, row);
    if norms && p.norms_last != 0u {
        normalise(t, fixed);
    }
}

/// On the rotated queries of a position.
fn temperature(position: u32) -> f32 {
    if p.temperature == 0.0 {
        return 1.0;
    }
    return 1.0 + p.temperature * log(f32(1u + position / p.temperature_step));
}

/// Writes what a query attended to: `sum` over `total`, perhaps gated.
fn attended(row: u32, head: u32, d: u32, sum: f32, total: f32) {
    var value = sum / total;
    if p.gated != 0u {
        let gate = qkv[row * p.stride + p.q + head * p.q_step + D + d];
        value *= 1.0 / (1.0 + exp(-gate));
    }
    out[row * p.out_stride + head * D + d] = value;
}
