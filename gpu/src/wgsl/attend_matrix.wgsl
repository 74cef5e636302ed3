// Attention of several rows of a text by cooperative matrices of half floats: a subgroup has sixteen of
// the queries that share keys and values. The first time through the keys finds each query's greatest
// score, the second time what it attends to: sums in matrices cannot be made smaller on the way.

const QUERIES = $SUBGROUPS$u * 16u;
/// Vectors of four numbers of a head, and what keeps heads apart in banks.
const STRIDE = D / 4u + 2u;
const FOURS = D / 4u;

/// `[query][number / 4]`
var<workgroup> queries: array<vec4<f16>, $QUERY_ROOM$>;
/// `[position][number / 4]`, of 32 keys or values.
var<workgroup> others: array<vec4<f16>, $OTHER_ROOM$>;
/// Of each subgroup `[query][position]`.
var<workgroup> scores: array<f32, $SCORES$>;
/// `[query][position / 4]`
var<workgroup> shares: array<vec4<f16>, $SHARES$>;
var<workgroup> folded: array<f32, THREADS>;

fn kind_of(h: u32, fixed: u32) -> u32 {
    return fixed;
}

fn narrow(v: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(v, vec4(-65504.0), vec4(65504.0)));
}

fn load_keys(t: u32, head: u32, base: u32) {
    for (var n = t; n < 32u * FOURS; n += THREADS) {
        let origin = key_at(head, base, n / 32u * 2u) + n % 32u;
        let four = vec4(pair(keys[origin]), pair(keys[origin + 32u]));
        others[n % 32u * STRIDE + n / 32u] = vec4<f16>(four);
    }
}

/// Values past the last position count as zeros: whatever lies there is multiplied with zeros.
fn load_values(t: u32, head: u32, base: u32, end: u32) {
    for (var n = t; n < 32u * FOURS; n += THREADS) {
        let origin = value_at(head, base + n / FOURS, n % FOURS * 2u);
        var four = vec4(0.0);
        if base + n / FOURS < end {
            four = vec4(pair(values[origin]), pair(values[origin + 1u]));
        }
        others[n / FOURS * STRIDE + n % FOURS] = vec4<f16>(four);
    }
}

/// Scores of a subgroup's queries and the keys at hand.
fn multiply_keys(subgroup: u32, lane: u32) {
#if PLAIN
    let query = (subgroup * 16u + lane / 2u) * STRIDE;
    for (var n = 0u; n < 16u; n++) {
        let position = lane % 2u * 16u + n;
        var sum = 0.0;
        for (var i = 0u; i < FOURS; i++) {
            sum += dot(vec4<f32>(queries[query + i]), vec4<f32>(others[position * STRIDE + i]));
        }
        scores[subgroup * 512u + lane / 2u * 32u + position] = sum;
    }
#else
    var s0 = coop_mat16x16<f32, C>();
    var s1 = coop_mat16x16<f32, C>();
#for k 0 $TILES$
    {
        let a = coopLoadT<coop_mat16x16<f16, A>>(&queries[subgroup * 16u * STRIDE + 4u * $k$u], STRIDE);
        let b0 = coopLoad<coop_mat16x16<f16, B>>(&others[4u * $k$u], STRIDE);
        let b1 = coopLoad<coop_mat16x16<f16, B>>(&others[16u * STRIDE + 4u * $k$u], STRIDE);
        s0 = coopMultiplyAdd(a, b0, s0);
        s1 = coopMultiplyAdd(a, b1, s1);
    }
#end
    coopStoreT(s0, &scores[subgroup * 512u], 32u);
    coopStoreT(s1, &scores[subgroup * 512u + 16u], 32u);
#endif
}

/// The score of a lane's query and one of its sixteen positions of those at hand; very small for a
/// position that the query does not see.
fn score_of(at: u32, position: u32, origin: u32, sees: u32) -> f32 {
    var score = scores[at] * p.scale;
    if p.cap != 0.0 {
        score = p.cap * tanh(score / p.cap);
    }
    return select(-1e30, score, position < sees && position >= origin);
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let head = group.x % p.kv_heads;
    let first = group.x / p.kv_heads * QUERIES;
    let subgroup = t / 32u;
    let lane = t % 32u;
    // The positions that any of the queries sees.
    let last_row = min((first + QUERIES - 1u) / p.group, run.rows - 1u);
    let end = run.start + last_row + 1u;
    let seen = run.start + first / p.group + 1u;
    let begin = select(0u, seen - p.window, seen > p.window) / 32u * 32u;
    // This lane's query, half of whose positions it has.
    let query = first + subgroup * 16u + lane / 2u;
    let row = query / p.group;
    let sees = run.start + row + 1u;
    let origin = select(0u, sees - p.window, sees > p.window);
    let own = subgroup * 512u + lane / 2u * 32u + lane % 2u * 16u;

    for (var n = t; n < QUERIES * FOURS; n += THREADS) {
        let q = first + n / FOURS;
        var four = vec4(0.0);
        if q / p.group < run.rows {
            let at = (run.first + q / p.group) * p.stride + p.q
                + (head * p.group + q % p.group) * p.q_step + n % FOURS * 4u;
            four = vec4(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
        }
        queries[n / FOURS * STRIDE + n % FOURS] = narrow(four);
    }

    var most = -1e30;
    for (var base = begin; base < end; base += 32u) {
        workgroupBarrier();
        load_keys(t, head, base);
        workgroupBarrier();
        multiply_keys(subgroup, lane);
        workgroupBarrier();
        for (var i = 0u; i < 16u; i++) {
            let position = base + lane % 2u * 16u + i;
            most = max(most, score_of(own + i, position, origin, sees));
        }
    }
    folded[t] = most;
    workgroupBarrier();
    most = max(most, folded[t ^ 1u]);

    var total = 0.0;
#for d 0 $TILES$
#if PLAIN
#for n 0 8
    var o$d$_$n$ = 0.0;
#end
#else
    var o$d$ = coop_mat16x16<f32, C>();
#endif
#end
    for (var base = begin; base < end; base += 32u) {
        workgroupBarrier();
        load_keys(t, head, base);
        workgroupBarrier();
        multiply_keys(subgroup, lane);
        workgroupBarrier();
        for (var i = 0u; i < 4u; i++) {
            var share: vec4<f16>;
            for (var c = 0u; c < 4u; c++) {
                let position = base + lane % 2u * 16u + 4u * i + c;
                let score = score_of(own + 4u * i + c, position, origin, sees);
                let weight = f16(select(0.0, exp(score - most), score > -1e29));
                share[c] = weight;
                total += f32(weight);
            }
            shares[(subgroup * 16u + lane / 2u) * 10u + lane % 2u * 4u + i] = share;
        }
        load_values(t, head, base, end);
        workgroupBarrier();
#if PLAIN
        for (var i = 0u; i < 32u; i++) {
            let weight = f32(shares[(subgroup * 16u + lane / 2u) * 10u + i / 4u][i % 4u]);
#for d 0 $TILES$
#for n 0 8
            o$d$_$n$ += weight
                * f32(others[i * STRIDE + 4u * $d$u + (lane % 2u * 8u + $n$u) / 4u][$n$u % 4u]);
#end
#end
        }
#else
#for k 0 2
        {
            let a = coopLoadT<coop_mat16x16<f16, A>>(&shares[subgroup * 160u + 4u * $k$u], 10u);
#for d 0 $TILES$
            {
                let b = coopLoadT<coop_mat16x16<f16, B>>(&others[16u * $k$u * STRIDE + 4u * $d$u], STRIDE);
                o$d$ = coopMultiplyAdd(a, b, o$d$);
            }
#end
        }
#end
#endif
    }
    folded[t] = total;
    workgroupBarrier();
    total += folded[t ^ 1u];
    let h = head * p.group + query % p.group;
    var shrinks = 1.0;
    if p.sinks != NONE {
        let sink = vectors[p.sinks + h];
        let before = most;
        most = max(most, sink);
        shrinks = exp(before - most);
        total = total * shrinks + exp(sink - most);
    }
    let at = subgroup * 512u + lane * 8u;
#for d 0 $TILES$
    workgroupBarrier();
#if PLAIN
#for n 0 8
    scores[at + $n$u] = o$d$_$n$;
#end
#else
    coopStoreT(o$d$, &scores[subgroup * 512u], 16u);
#endif
    workgroupBarrier();
    if row < run.rows {
        for (var n = 0u; n < 8u; n++) {
            let d = 16u * $d$u + lane % 2u * 8u + n;
            attended(run.first + row, h, d, scores[at + n] * shrinks, total);
        }
    }
#end
}
