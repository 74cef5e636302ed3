// Attention of up to R queries of a lone row, which share keys and values, over a chunk of the positions
// that it sees. Queries, the key and the value are made ready here: the row's own position is stored
// by whoever has the last chunk.

const R = $R$u;
/// Positions that are scored at a time, two threads for each.
const TILE = 64u;
/// Threads of a query's softmax.
const SHARE = $SHARE$u;
/// Threads that have the same pair of a value, each of other positions.
const GROUPS = $GROUPS$u;

/// `[query][half of the pairs][position]`
var<workgroup> scores: array<f32, $SCORES$>;
var<workgroup> folded: array<f32, THREADS>;
var<workgroup> maxima: array<f32, R>;
var<workgroup> sums: array<f32, R>;
var<workgroup> shrink: array<f32, R>;
#if SHARED_GROUPS
var<workgroup> shared_sums: array<vec2<f32>, $SHARED$>;
#endif

fn kind_of(h: u32, fixed: u32) -> u32 {
    return select(0u, h + 1u - R, h >= R);
}

/// The greatest, or the sum, of what the threads of each query have.
fn fold(t: u32, own: f32, adds: bool) -> f32 {
    folded[t] = own;
    workgroupBarrier();
    for (var n = SHARE / 2u; n > 0u; n /= 2u) {
        if t % SHARE < n {
            let other = folded[t + n];
            folded[t] = select(max(folded[t], other), folded[t] + other, adds);
        }
        workgroupBarrier();
    }
    let all = folded[t - t % SHARE];
    workgroupBarrier();
    return all;
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let head = group.x % p.kv_heads;
    let first = group.x / p.kv_heads * R;
    let count = min(R, p.group - first);
    let row = run.first;
    let seen = run.start + 1u;
    let end = min(seen, (group.y + 1u) * run.chunk);
    let begin = max(select(0u, seen - p.window, seen > p.window), group.y * run.chunk);

    for (var n = t; n < R * D; n += THREADS) {
        let query = head * p.group + first + min(n / D, count - 1u);
        heads[n] = qkv[row * p.stride + p.q + query * p.q_step + n % D];
    }
    for (var i = t; i < D; i += THREADS) {
        heads[R * D + i] = qkv[row * p.stride + p.k + head * D + i];
        heads[(R + 1u) * D + i] = qkv[row * p.stride + p.v + head * D + i];
    }
    turn(t, 0u, row);
    let factor = temperature(run.start) * p.scale;
    for (var n = t; n < R * D; n += THREADS) {
        heads[n] *= factor;
    }
    if p.stores != 0u && end == seen {
        for (var e = t; e < PAIRS; e += THREADS) {
            let key = vec2(heads[R * D + 2u * e], heads[R * D + 2u * e + 1u]);
            let value = vec2(heads[(R + 1u) * D + 2u * e], heads[(R + 1u) * D + 2u * e + 1u]);
            keys[key_at(head, run.start, e)] = cell(key);
            values[value_at(head, run.start, e)] = cell(value);
        }
    }
    storageBarrier();
    if t < R {
        maxima[t] = -1e30;
        sums[t] = 0.0;
    }
    workgroupBarrier();

#for n 0 $R$
#for o 0 $WN$
    var o$n$_$o$ = vec2(0.0);
#end
#end
    // What a thread has of a softmax: a query, and every SHARE-th position.
    let query = min(t / SHARE, R - 1u);
    let works = t / SHARE < R;
    for (var base = begin / 32u * 32u; base < end; base += TILE) {
        let position = base + t % TILE;
        let half = t / TILE;
        let origin = key_at(head, min(position, run.positions - 1u), 0u);
#for n 0 $R$
        var s$n$ = 0.0;
#end
        for (var e = half; e < PAIRS; e += 2u * $U$u) {
#for u 0 $U$
            let key$u$ = pair(keys[origin + 32u * min(e + 2u * $u$u, PAIRS - 1u)]);
#end
#for u 0 $U$
            if e + 2u * $u$u < PAIRS {
#for n 0 $R$
                s$n$ += dot(key$u$, vec2(heads[$n$u * D + 2u * (e + 2u * $u$u)], heads[$n$u * D + 2u * (e + 2u * $u$u) + 1u]));
#end
            }
#end
        }
#for n 0 $R$
        scores[($n$u * 2u + half) * TILE + t % TILE] = s$n$;
#end
        workgroupBarrier();
        var most = -1e30;
        for (var i = t % SHARE; i < TILE; i += SHARE) {
            let at = query * 2u * TILE + i;
            var score = scores[at] + scores[at + TILE];
            if p.cap != 0.0 {
                score = p.cap * tanh(score / p.cap);
            }
            let there = works && base + i < end && base + i >= begin;
            score = select(-1e30, score, there);
            most = max(most, score);
            if works {
                scores[at] = score;
            }
        }
        let before = maxima[query];
        most = max(before, fold(t, most, false));
        var sum = 0.0;
        for (var i = t % SHARE; i < TILE; i += SHARE) {
            let at = query * 2u * TILE + i;
            let score = scores[at];
            let weight = select(0.0, exp(score - most), score > -1e29);
            sum += weight;
            if works {
                scores[at] = weight;
            }
        }
        sum = fold(t, sum, true);
        if works && t % SHARE == 0u {
            maxima[query] = most;
            shrink[query] = exp(before - most);
            sums[query] = sums[query] * exp(before - most) + sum;
        }
        workgroupBarrier();
#for n 0 $R$
#for o 0 $WN$
        o$n$_$o$ *= shrink[$n$u];
#end
#end
        let rest = min(TILE, end - base);
        for (var i = t / $SPAN$u; i < rest; i += $U$u * GROUPS) {
#for u 0 $U$
#for o 0 $WN$
            let value$u$_$o$ = pair(values[value_at(
                head,
                base + min(i + $u$u * GROUPS, rest - 1u),
                min($WORD$ + $o$u * $SPAN$u, PAIRS - 1u),
            )]);
#end
#end
#for u 0 $U$
            if i + $u$u * GROUPS < rest {
#for n 0 $R$
                {
                    let weight = scores[$n$u * 2u * TILE + i + $u$u * GROUPS];
#for o 0 $WN$
                    o$n$_$o$ += weight * value$u$_$o$;
#end
                }
#end
            }
#end
        }
        workgroupBarrier();
    }

#for n 0 $R$
    {
#for o 0 $WN$
        var total$o$ = o$n$_$o$;
#if SHARED_GROUPS
        // Groups have other positions of the same pairs.
        shared_sums[t] = total$o$;
        workgroupBarrier();
        total$o$ = vec2(0.0);
        for (var g = 0u; g < GROUPS; g++) {
            total$o$ += shared_sums[g * $SPAN$u + $WORD$];
        }
        workgroupBarrier();
#endif
        if $n$u < count && t < $SPAN$u && $WORD$ + $o$u * $SPAN$u < PAIRS {
            let h = head * p.group + first + $n$u;
            let d = 2u * ($WORD$ + $o$u * $SPAN$u);
            if run.chunks > 1u {
                let at = (run.chunks_before * p.heads + h * run.chunks + group.y) * (D + 2u);
                partials[at + d] = total$o$.x;
                partials[at + d + 1u] = total$o$.y;
                if d == 0u {
                    partials[at + D] = maxima[$n$u];
                    partials[at + D + 1u] = sums[$n$u];
                }
            } else {
                var shrinks = 1.0;
                var all = sums[$n$u];
                if p.sinks != NONE {
                    let sink = vectors[p.sinks + h];
                    let most = max(maxima[$n$u], sink);
                    shrinks = exp(maxima[$n$u] - most);
                    all = all * shrinks + exp(sink - most);
                }
                attended(row, h, d, total$o$.x * shrinks, all);
                attended(row, h, d + 1u, total$o$.y * shrinks, all);
            }
        }
#end
    }
#end
}
