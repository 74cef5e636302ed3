// to = (keep to + mix norm(from)) scale, row by row; a workgroup has a row.

struct Params {
    k: u32,
    origin: u32,
    origin_stride: u32,
    dest: u32,
    dest_stride: u32,
    norm: u32,
    norm_bias: u32,
    eps: f32,
    keep: f32,
    mix: f32,
    scale: f32,
    centred: u32,
}

const THREADS = 256u;
const NONE = 0xffffffffu;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> dest: array<f32>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
#if OTHER
@group(0) @binding(3) var<storage, read> origin: array<f32>;
#endif
#if PICK
@group(0) @binding(4) var<storage, read> picked: array<u32>;
#endif

var<workgroup> lane_sums: array<f32, THREADS>;

fn sum_all(t: u32, own: f32) -> f32 {
    workgroupBarrier();
    lane_sums[t] = own;
    workgroupBarrier();
    for (var n = THREADS / 2u; n > 0u; n /= 2u) {
        if t < n {
            lane_sums[t] += lane_sums[t + n];
        }
        workgroupBarrier();
    }
    return lane_sums[0];
}

fn number(at: u32) -> f32 {
#if OTHER
    return origin[at];
#else
    return dest[at];
#endif
}

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
#if PICK
    let source = picked[group.x] * p.origin_stride + p.origin;
#else
    let source = group.x * p.origin_stride + p.origin;
#endif
    let target_at = group.x * p.dest_stride + p.dest;
    var mean = 0.0;
    var factor = 1.0;
    if p.norm != NONE {
        if p.centred != 0u {
            var own = 0.0;
            for (var i = t; i < p.k; i += THREADS) {
                own += number(source + i);
            }
            mean = sum_all(t, own) / f32(p.k);
        }
        var own = 0.0;
        for (var i = t; i < p.k; i += THREADS) {
            let v = number(source + i) - mean;
            own += v * v;
        }
        factor = 1.0 / sqrt(sum_all(t, own) / f32(p.k) + p.eps);
    }
    for (var i = t; i < p.k; i += THREADS) {
        var v = number(source + i);
        if p.norm != NONE {
            v = (v - mean) * factor * vectors[p.norm + i];
            if p.norm_bias != NONE {
                v += vectors[p.norm_bias + i];
            }
        }
        v *= p.mix;
        if p.keep != 0.0 {
            v += p.keep * dest[target_at + i];
        }
        dest[target_at + i] = v * p.scale;
    }
}
