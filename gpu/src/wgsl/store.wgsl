// Queries and keys of a pass, normalised and rotated in place; keys and values into the cache. A
// workgroup has one head of one row.

fn kind_of(h: u32, fixed: u32) -> u32 {
    return fixed;
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let row = run.first + group.y;
    let position = run.start + group.y;
    var kind = 0u;
    var head = group.x;
    if head >= p.heads {
        kind = 1u + (head - p.heads) / p.kv_heads;
        head = (head - p.heads) % p.kv_heads;
    }
    var origin = row * p.stride;
    switch kind {
        case 0u: { origin += p.q + head * p.q_step; }
        case 1u: { origin += p.k + head * D; }
        default: { origin += p.v + head * D; }
    }
    for (var i = t; i < D; i += THREADS) {
        heads[i] = qkv[origin + i];
    }
    turn(t, kind, row);
    let factor = temperature(position);
    for (var e = t; e < PAIRS; e += THREADS) {
        let own = vec2(heads[2u * e], heads[2u * e + 1u]);
        if kind == 0u {
            qkv[origin + 2u * e] = own.x * factor;
            qkv[origin + 2u * e + 1u] = own.y * factor;
        } else if kind == 1u {
            keys[key_at(head, position, e)] = cell(own);
        } else {
            values[value_at(head, position, e)] = cell(own);
        }
    }
}
