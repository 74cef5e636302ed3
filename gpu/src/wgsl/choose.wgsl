// The experts of each row, in the order of their index, and their weights. A workgroup has a row.

struct Params {
    count: u32,
    used: u32,
    stride: u32,
    sigmoid: u32,
    groups: u32,
    groups_used: u32,
    best_two: u32,
    renormalise: u32,
    scale: f32,
    bias: u32,
    score_scale: f32,
    pad: u32,
}

struct Choice { expert: u32, weight: f32 }

const THREADS = 64u;
const NONE = 0xffffffffu;
/// Below every rank.
const TAKEN = -3e38;

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read_write> choices: array<Choice>;

var<workgroup> weights: array<f32, $COUNT$>;
var<workgroup> ranks: array<f32, $COUNT$>;
var<workgroup> group_ranks: array<f32, $COUNT$>;
var<workgroup> lane_sums: array<f32, THREADS>;
var<workgroup> places: array<u32, THREADS>;
var<workgroup> chosen: array<u32, $COUNT$>;

fn fold(t: u32, own: f32, adds: bool) -> f32 {
    workgroupBarrier();
    lane_sums[t] = own;
    workgroupBarrier();
    for (var n = THREADS / 2u; n > 0u; n /= 2u) {
        if t < n {
            let other = lane_sums[t + n];
            lane_sums[t] = select(max(lane_sums[t], other), lane_sums[t] + other, adds);
        }
        workgroupBarrier();
    }
    return lane_sums[0];
}

/// The first of the greatest ranks, for all threads.
fn best(t: u32) -> u32 {
    var own = TAKEN;
    var place = NONE;
    for (var i = t; i < p.count; i += THREADS) {
        if ranks[i] > own {
            own = ranks[i];
            place = i;
        }
    }
    workgroupBarrier();
    lane_sums[t] = own;
    places[t] = place;
    workgroupBarrier();
    for (var n = THREADS / 2u; n > 0u; n /= 2u) {
        if t < n {
            let other = lane_sums[t + n];
            if other > lane_sums[t] || (other == lane_sums[t] && places[t + n] < places[t]) {
                lane_sums[t] = other;
                places[t] = places[t + n];
            }
        }
        workgroupBarrier();
    }
    return min(places[0], p.count - 1u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let origin = group.x * p.stride;
    var most = TAKEN;
    for (var i = t; i < p.count; i += THREADS) {
        let score = scores[origin + i] * p.score_scale;
        weights[i] = score;
        most = max(most, score);
    }
    most = fold(t, most, false);
    var sum = 0.0;
    for (var i = t; i < p.count; i += THREADS) {
        if p.sigmoid != 0u {
            weights[i] = 1.0 / (1.0 + exp(-weights[i]));
        } else {
            weights[i] = exp(weights[i] - most);
            sum += weights[i];
        }
    }
    sum = fold(t, sum, true);
    for (var i = t; i < p.count; i += THREADS) {
        if p.sigmoid == 0u {
            weights[i] /= sum;
        }
        ranks[i] = weights[i];
        if p.bias != NONE {
            ranks[i] += vectors[p.bias + i];
        }
    }
    workgroupBarrier();
    if p.groups > 0u {
        let size = p.count / p.groups;
        for (var g = t; g < p.groups; g += THREADS) {
            var first = -1e38;
            var second = -1e38;
            for (var i = g * size; i < (g + 1u) * size; i++) {
                if ranks[i] > first {
                    second = first;
                    first = ranks[i];
                } else if ranks[i] > second {
                    second = ranks[i];
                }
            }
            group_ranks[g] = select(first, max(first + second, -1e38), p.best_two != 0u);
        }
        workgroupBarrier();
        if t == 0u {
            for (var n = 0u; n < p.groups_used; n++) {
                var place = 0u;
                for (var g = 1u; g < p.groups; g++) {
                    if group_ranks[g] > group_ranks[place] {
                        place = g;
                    }
                }
                group_ranks[place] = TAKEN;
            }
        }
        workgroupBarrier();
        for (var i = t; i < p.count; i += THREADS) {
            if group_ranks[i / size] != TAKEN {
                ranks[i] = TAKEN;
            }
        }
        workgroupBarrier();
    }
    for (var n = 0u; n < p.used; n++) {
        let place = best(t);
        workgroupBarrier();
        if t == 0u {
            ranks[place] = TAKEN;
            // In the order of their index.
            var at = n;
            while at > 0u && chosen[at - 1u] > place {
                chosen[at] = chosen[at - 1u];
                at -= 1u;
            }
            chosen[at] = place;
        }
        workgroupBarrier();
    }
    if t == 0u {
        var total = select(0.0, 1e-20, p.sigmoid != 0u);
        for (var n = 0u; n < p.used; n++) {
            total += weights[chosen[n]];
        }
        let factor = select(1.0, 1.0 / total, p.renormalise != 0u) * p.scale;
        for (var n = 0u; n < p.used; n++) {
            let expert = chosen[n];
            choices[group.x * p.used + n] = Choice(expert, weights[expert] * factor);
        }
    }
}
