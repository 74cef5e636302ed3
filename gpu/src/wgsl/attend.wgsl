// Attention of R queries that share keys and values, of several rows of a text.

const R = $R$u;
/// Of sums over values: threads that have a query's pair, and queries that a thread has.
const GROUPS = $GROUPS$u;

var<workgroup> scores: array<f32, $SCORES$>;
var<workgroup> maxima: array<f32, R>;
var<workgroup> sums: array<f32, R>;
var<workgroup> shrink: array<f32, R>;

fn kind_of(h: u32, fixed: u32) -> u32 {
    return fixed;
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let head = group.x % p.kv_heads;
    let first = group.x / p.kv_heads * R;
    // The positions that any of the queries sees.
    let last_row = min((first + R - 1u) / p.group, run.rows - 1u);
    let end = run.start + last_row + 1u;
    let seen = run.start + first / p.group + 1u;
    let begin = select(0u, seen - p.window, seen > p.window);

    for (var n = t; n < R * D; n += THREADS) {
        let query = first + n / D;
        let row = query / p.group;
        let origin = (run.first + row) * p.stride + p.q
            + (head * p.group + query % p.group) * p.q_step;
        heads[n] = 0.0;
        if row < run.rows {
            heads[n] = qkv[origin + n % D];
        }
    }
    if t < R {
        maxima[t] = -1e30;
        sums[t] = 0.0;
    }
    workgroupBarrier();

#for n 0 $ON$
#for o 0 $WN$
    var o$n$_$o$ = vec2(0.0);
#end
#end
    for (var base = begin / 32u * 32u; base < end; base += 32u) {
        // Scores of 32 positions, a thread for each and for every fourth query.
        let position = base + t % 32u;
#for n 0 $QN$
        var s$n$ = 0.0;
#end
        let origin = key_at(head, base, 0u) + t % 32u;
        for (var e = 0u; e < PAIRS; e++) {
            let key = pair(keys[origin + 32u * e]);
#for n 0 $QN$
            {
                let at = min(t / 32u + 4u * $n$u, R - 1u) * D + 2u * e;
                s$n$ += key.x * heads[at] + key.y * heads[at + 1u];
            }
#end
        }
#for n 0 $QN$
        {
            let query = t / 32u + 4u * $n$u;
            let sees = run.start + (first + query) / p.group + 1u;
            let origin = select(0u, sees - p.window, sees > p.window);
            var score = s$n$ * p.scale;
            if p.cap != 0.0 {
                score = p.cap * tanh(score / p.cap);
            }
            let there = position < min(sees, end) && position >= max(origin, begin);
            if query < R {
                scores[query * 32u + t % 32u] = select(-1e30, score, there);
            }
        }
#end
        workgroupBarrier();
        if t < R {
            let before = maxima[t];
            var most = before;
            for (var i = 0u; i < 32u; i++) {
                most = max(most, scores[t * 32u + i]);
            }
            var sum = 0.0;
            for (var i = 0u; i < 32u; i++) {
                let score = scores[t * 32u + i];
                let weight = select(0.0, exp(score - most), score > -1e29);
                scores[t * 32u + i] = weight;
                sum += weight;
            }
            maxima[t] = most;
            shrink[t] = exp(before - most);
            sums[t] = sums[t] * shrink[t] + sum;
        }
        workgroupBarrier();
        let count = min(32u, end - base);
#for n 0 $ON$
#for o 0 $WN$
        o$n$_$o$ *= shrink[min(t / $SPAN$u + $n$u * GROUPS, R - 1u)];
#end
#end
        for (var i = 0u; i < count; i++) {
#for o 0 $WN$
            let value$o$ =
                pair(values[value_at(head, base + i, min($WORD$ + $o$u * $SPAN$u, PAIRS - 1u))]);
#end
#for n 0 $ON$
            {
                let query = min(t / $SPAN$u + $n$u * GROUPS, R - 1u);
                let weight = scores[query * 32u + i];
#for o 0 $WN$
                o$n$_$o$ += weight * value$o$;
#end
            }
#end
        }
        workgroupBarrier();
    }

#for n 0 $ON$
    {
        let own = t / $SPAN$u + $n$u * GROUPS;
        let query = first + own;
        let row = query / p.group;
        if own < R && row < run.rows {
            let h = head * p.group + query % p.group;
#for o 0 $WN$
            if $WORD$ + $o$u * $SPAN$u < PAIRS {
                let d = 2u * ($WORD$ + $o$u * $SPAN$u);
                var shrinks = 1.0;
                var total = sums[own];
                if p.sinks != NONE {
                    let sink = vectors[p.sinks + h];
                    let most = max(maxima[own], sink);
                    shrinks = exp(maxima[own] - most);
                    total = total * shrinks + exp(sink - most);
                }
                attended(run.first + row, h, d, o$n$_$o$.x * shrinks, total);
                attended(run.first + row, h, d + 1u, o$n$_$o$.y * shrinks, total);
            }
#end
        }
    }
#end
}
