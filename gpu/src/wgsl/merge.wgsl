// The chunks of a head's attention, added up in their order. A workgroup has a head of a row.

fn kind_of(h: u32, fixed: u32) -> u32 {
    return fixed;
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let row = run.first + group.y;
    let origin = run.chunks_before * p.heads + group.x * run.chunks;
    var most = -1e30;
    for (var c = 0u; c < run.chunks; c++) {
        most = max(most, partials[(origin + c) * (D + 2u) + D]);
    }
    if p.sinks != NONE {
        most = max(most, vectors[p.sinks + group.x]);
    }
    var total = 0.0;
    for (var c = 0u; c < run.chunks; c++) {
        let at = (origin + c) * (D + 2u) + D;
        total += partials[at + 1u] * exp(partials[at] - most);
    }
    if p.sinks != NONE {
        total += exp(vectors[p.sinks + group.x] - most);
    }
    for (var d = t; d < D; d += THREADS) {
        var sum = 0.0;
        for (var c = 0u; c < run.chunks; c++) {
            let at = (origin + c) * (D + 2u);
            sum += partials[at + d] * exp(partials[at + D] - most);
        }
        attended(row, group.x, d, sum, total);
    }
}
