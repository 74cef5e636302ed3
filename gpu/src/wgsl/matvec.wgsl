// Products of few rows: a workgroup makes sixteen columns of M rows for each of some panels; the threads
// of a panel share K.

const THREADS = $THREADS$u;
/// Threads of a panel.
const LANES = $LANES$u;
const BLOCKS = $BLOCKS$u;

/// Sums of the threads, four columns each, of every row and matrix.
var<workgroup> sums: array<vec4<f32>, $SUMS$>;

#if SCALED
@group(0) @binding(11) var<storage, read> norms: array<vec4<f32>>;
/// Of the numbers of the row that this thread has seen.
var<private> squares: f32;
var<workgroup> all_squares: array<f32, THREADS>;
#endif
#if STAGED
/// The row that is multiplied.
var<workgroup> staged: array<vec4<f32>, $ROW$>;
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

fn vector(at: u32, i: u32) -> vec4<f32> {
    let first = at + 4u * i;
    return vec4(vectors[first], vectors[first + 1u], vectors[first + 2u], vectors[first + 3u]);
}

/// The row, normalised, after what is pending was added to it: x = (x + mix post(mixed)) block_scale.
fn stage(t: u32, row: u32, writes: bool) {
    let n = (p.k + 3u) / 4u;
    let origin = row * p.x_stride;
    var own = 0.0;
#if PENDING
    for (var i = t; i < n; i += THREADS) {
        let v = mixed[origin + i];
        own += dot(v, v);
    }
    let post = 1.0 / sqrt(sum_all(t, own) / f32(p.k) + p.post_eps);
    own = 0.0;
#endif
    for (var i = t; i < n; i += THREADS) {
        var v = x[origin + i];
#if PENDING
        v = (v + p.mix * (mixed[origin + i] * post * vector(p.post, i))) * p.block_scale;
        if writes {
            x_out[origin + i] = v;
        }
#endif
        staged[i] = v;
#if CENTRED
        own += dot(v, vec4(1.0));
#else
        own += dot(v, v);
#endif
    }
#if CENTRED
    let mean = sum_all(t, own) / f32(p.k);
    own = 0.0;
    for (var i = t; i < n; i += THREADS) {
        // What pads a row counts as nothing.
        let there = vec4<u32>(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4(p.k);
        let v = select(vec4(0.0), staged[i] - vec4(mean), there);
        staged[i] = v;
        own += dot(v, v);
    }
#endif
    let norm = 1.0 / sqrt(sum_all(t, own) / f32(p.k) + p.eps);
    for (var i = t; i < n; i += THREADS) {
        var v = staged[i] * norm * vector(p.norm, i);
        if p.norm_bias != NONE {
            v += vector(p.norm_bias, i);
        }
        staged[i] = v;
    }
    workgroupBarrier();
}

fn input(row: u32, i: u32) -> vec4<f32> {
    return staged[i];
}
#else
fn input(row: u32, i: u32) -> vec4<f32> {
    return x[row * p.x_stride + i];
}
#endif

#if BYTES_MADE
/// The row as bytes, and the scales of each 32.
var<workgroup> row_codes: array<u32, $CODES$>;
var<workgroup> row_scales: array<vec4<f32>, $BLOCKS$>;

fn code(row: u32, i: u32) -> u32 {
    return row_codes[i];
}

fn scale_of(row: u32, b: u32) -> vec4<f32> {
    return row_scales[b];
}

/// Each thread makes blocks of 32 numbers bytes.
fn quantise(t: u32, row: u32) {
#if SCALED
    squares = 0.0;
#endif
    for (var b = t; b < BLOCKS; b += THREADS) {
        var block: array<vec4<f32>, 8>;
#for i 0 8
        block[$i$] = input(row, b * 8u + $i$u);
#end
#if SCALED
        // The norm's factor is known when all of the row has passed by.
#for i 0 8
        squares += dot(block[$i$], block[$i$]);
        block[$i$] *= norms[p.norm / 4u + b * 8u + $i$u];
#end
#endif
        let made = as_bytes(block);
#for i 0 8
        row_codes[b * 8u + $i$u] = made.codes[$i$];
#end
        row_scales[b] = made.scale;
    }
#if SCALED
    all_squares[t] = squares;
#endif
    workgroupBarrier();
}
#endif
#if BYTES_READ
@group(0) @binding(12) var<storage, read> codes: array<u32>;
@group(0) @binding(13) var<storage, read> scales: array<vec4<f32>>;

fn code(row: u32, i: u32) -> u32 {
    return codes[row * BLOCKS * 8u + i];
}

fn scale_of(row: u32, b: u32) -> vec4<f32> {
    return scales[row * BLOCKS + b];
}
#endif

/// Four bytes of each of four rows times four bytes.
fn four_bytes(rows: vec4<u32>, other: u32) -> vec4<i32> {
    return vec4(
        dot4I8Packed(rows.x, other),
        dot4I8Packed(rows.y, other),
        dot4I8Packed(rows.z, other),
        dot4I8Packed(rows.w, other),
    );
}

$DOTS$

/// One matrix's sixteen columns of the workgroup's rows, into `sums` from `to` on.
fn multiply(format: u32, panel: u32, t: u32, first: u32, to: u32) {
    let q = t % 4u;
    let slot = t % LANES / 4u;
    var own: array<vec4<f32>, $M$>;
$CHOOSE$
#for m 0 $M$
    sums[to + $m$u * THREADS + t] = own[$m$];
#end
#if SCALED
#if BYTES_MADE
#else
    all_squares[t] = squares;
#endif
#endif
}

/// Adds up the sums of each panel's threads: the first four of them have them then.
fn reduce(t: u32) {
    workgroupBarrier();
    for (var n = THREADS / 2u; n >= 4u; n /= 2u) {
        if n < LANES && t % LANES < n {
            for (var i = t; i < $SUMS$u; i += THREADS) {
                sums[i] += sums[i + n];
            }
        }
#if SCALED
        if t < n {
            all_squares[t] += all_squares[t + n];
        }
#endif
        workgroupBarrier();
    }
}

/// The factor of the norm, once all is added up.
fn norm_factor(t: u32) -> f32 {
#if SCALED
#if BYTES_MADE
    let all = all_squares[0] + all_squares[1] + all_squares[2] + all_squares[3];
#else
    // Four threads have seen the same numbers.
    let all = all_squares[t];
#endif
    return 1.0 / sqrt(all / f32(p.k) + p.eps);
#else
    return 1.0;
#endif
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
#if EXPERT_UP
    // A row and one of its experts.
    let slot = group.y;
    let choice = choices[slot];
    let row = slot / p.used;
    let at = group.x * p.part[0].stride;
    multiply(p.part[0].format, bank[3u * choice.expert] + at, t, row, 0u);
    multiply(p.part[1].format, bank[3u * choice.expert + 1u] + at, t, row, THREADS);
    reduce(t);
    if t < 4u {
        for (var r = 0u; r < 4u; r++) {
            let column = group.x * 16u + 4u * t + r;
            if column < p.part[0].rows {
                var gate = sums[t][r] * bitcast<f32>(bank[p.factors + 3u * choice.expert]);
                var up = sums[THREADS + t][r] * bitcast<f32>(bank[p.factors + 3u * choice.expert + 1u]);
                if p.part[0].bias != NONE {
                    let expert = choice.expert * p.part[0].rows;
                    gate = biased(p.part[0].bias, expert + column, gate);
                    up = biased(p.part[1].bias, expert + column, up);
                }
                out[slot * p.out_stride + column] = gated(gate, up);
            }
        }
    }
#else
#if EXPERT_DOWN
    // A row: the sum over its experts.
    let row = group.y;
    var total = vec4(0.0);
    for (var i = 0u; i < p.used; i++) {
        let slot = row * p.used + i;
        let choice = choices[slot];
        let panel = bank[3u * choice.expert + 2u] + group.x * p.part[0].stride;
        multiply(p.part[0].format, panel, t, slot, 0u);
        reduce(t);
        if t < 4u {
            var made = sums[t] * bitcast<f32>(bank[p.factors + 3u * choice.expert + 2u]);
            if p.part[0].bias != NONE {
                let first = p.part[0].bias + choice.expert * p.part[0].rows + group.x * 16u + 4u * t;
                made += vec4(vectors[first], vectors[first + 1u], vectors[first + 2u], vectors[first + 3u]);
            }
            total += choice.weight * made;
        }
        workgroupBarrier();
    }
    if t < 4u {
        for (var r = 0u; r < 4u; r++) {
            let column = group.x * 16u + 4u * t + r;
            if column < p.part[0].rows {
                let at = row * p.out_stride + column;
#if ADD
                out[at] += p.scale * total[r];
#else
                out[at] = p.scale * total[r];
#endif
            }
        }
    }
#else
    let first = group.y * $M$u;
    // Of its panel.
    let lane = t % LANES;
    let own_panel = group.x * (THREADS / LANES) + t / LANES;
#if STAGED
    stage(t, first, group.x == 0u);
#endif
#if BYTES_MADE
    quantise(t, first);
#endif
#if GATED
    // Gate and up are the two parts; their panels have the same number.
    let panel = min(own_panel, (p.part[0].rows + 15u) / 16u - 1u);
    for (var half = 0u; half < 2u; half++) {
        let part = p.part[half];
        multiply(part.format, part.at + panel * part.stride, t, first, half * $M$u * THREADS);
    }
    reduce(t);
    if lane < 4u {
#for m 0 $M$
        if first + $m$u < pass_[p.count] {
            for (var r = 0u; r < 4u; r++) {
                let column = own_panel * 16u + 4u * lane + r;
                if column < p.part[0].rows {
                    let factor = norm_factor(t);
                    let gate = sums[$m$u * THREADS + t][r] * factor * p.part[0].factor;
                    let up = sums[($M$u + $m$u) * THREADS + t][r] * factor * p.part[1].factor;
                    out[(first + $m$u) * p.out_stride + p.part[0].out + column] = gated(
                        biased(p.part[0].bias, column, gate),
                        biased(p.part[1].bias, column, up),
                    );
                }
            }
        }
#end
    }
#else
    var part = p.part[0];
    for (var i = 1u; i < p.parts; i++) {
        if own_panel >= p.part[i].first {
            part = p.part[i];
        }
    }
    // What is past the last panel is multiplied and dropped.
    let panel = min(own_panel - part.first, (part.rows + 15u) / 16u - 1u);
    multiply(part.format, part.at + panel * part.stride, t, first, 0u);
    reduce(t);
    if lane < 4u {
#for m 0 $M$
        if first + $m$u < pass_[p.count] {
            for (var r = 0u; r < 4u; r++) {
                let column = (own_panel - part.first) * 16u + 4u * lane + r;
                if column < part.rows {
                    finish(part, first + $m$u, column, sums[$m$u * THREADS + t][r] * norm_factor(t));
                }
            }
        }
#end
    }
#endif
#endif
#endif
}
