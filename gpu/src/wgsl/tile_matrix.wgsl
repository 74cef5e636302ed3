// Products of many rows by cooperative matrices of half floats: a workgroup makes TILE_COLUMNS columns of
// TILE_ROWS rows, a subgroup OWN_COLUMNS of OWN_ROWS. Sums are single precision.

const TILE_ROWS = $TILE_ROWS$u;
const TILE_COLUMNS = $TILE_COLUMNS$u;
const OWN_ROWS = $OWN_ROWS$u;
const OWN_COLUMNS = 32u;
const THREADS = $THREADS$u;
const BLOCKS = $BLOCKS$u;
/// Vectors of four along K of a column or a row, 64 values and what keeps rows apart in banks.
const STRIDE = 18u;

/// `[column][k / 4]` and `[row][k / 4]`
var<workgroup> weights: array<vec4<f16>, $WEIGHTS$>;
var<workgroup> rows: array<vec4<f16>, $ROWS$>;
/// Of each subgroup `[row][column]` of one matrix.
var<workgroup> made: array<f32, $MADE$>;

/// Four columns of eight values along K.
struct Decoded { low: mat4x4<f32>, high: mat4x4<f32> }

fn scaled(pair: Pair, s: Scales) -> Decoded {
    return Decoded(
        mat4x4(
            s.scale[0] * pair.low[0] + s.min[0],
            s.scale[0] * pair.low[1] + s.min[0],
            s.scale[0] * pair.low[2] + s.min[0],
            s.scale[0] * pair.low[3] + s.min[0],
        ),
        mat4x4(
            s.scale[1] * pair.high[0] + s.min[1],
            s.scale[1] * pair.high[1] + s.min[1],
            s.scale[1] * pair.high[2] + s.min[1],
            s.scale[1] * pair.high[3] + s.min[1],
        ),
    );
}

fn decode(format: u32, panel: u32, q: u32, b: u32, j: u32) -> Decoded {
$DECODE$
}

/// Within what half floats can say.
fn narrow(v: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(v, vec4(-65504.0), vec4(65504.0)));
}

@compute @workgroup_size($THREADS$)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let count = pass_[p.count];
    let first = group.y * TILE_ROWS;
    // What this thread decodes: of a panel of the tile, four rows of eight values of one block of two.
    let own = t / 16u % (TILE_COLUMNS / 16u);
    let half = t / TILE_COLUMNS;
    let q = t % 4u;
    let j = t / 4u % 4u;
#if GATED
    // Panels of the tile: gate, up, gate, up.
    let part = p.part[own % 2u];
    let panels = (p.part[0].rows + 15u) / 16u;
    let panel = min(group.x * (TILE_COLUMNS / 32u) + own / 2u, panels - 1u);
#else
    var part = p.part[0];
    for (var i = 1u; i < p.parts; i++) {
        if group.x >= p.part[i].first {
            part = p.part[i];
        }
    }
    let panels = (part.rows + 15u) / 16u;
    let tile = group.x - part.first;
    let panel = min(tile * (TILE_COLUMNS / 16u) + own, panels - 1u);
#endif
    let origin = part.at + panel * part.stride;
    let subgroup = t / 32u;
    let row0 = subgroup % (TILE_ROWS / OWN_ROWS) * OWN_ROWS;
    let column0 = subgroup / (TILE_ROWS / OWN_ROWS) * OWN_COLUMNS;
    let lane = t % 32u;
#for r 0 $OWN_TILES$
#for c 0 2
#if PLAIN
#for n 0 8
    var c$r$_$c$_$n$ = 0.0;
#end
#else
    var c$r$_$c$ = coop_mat16x16<f32, C>();
#endif
#end
#end
    for (var b = 0u; b < BLOCKS; b += 2u) {
        // All that comes from afar is asked for before anybody waits.
        let values = decode(part.format, origin, q, b + half, j);
#for n 0 $READS$
        var x$n$ = vec4(0.0);
#if RAGGED
        if 32u * b + 4u * (t % 16u) < p.k {
#else
        {
#endif
            let row = min(first + t / 16u + (THREADS / 16u) * $n$u, count - 1u);
            x$n$ = x[row * p.x_stride + 8u * b + t % 16u];
        }
#end
        workgroupBarrier();
#for r 0 4
        {
            let at = (own * 16u + 4u * q + $r$u) * STRIDE + half * 8u + j;
            let low = values.low;
            let high = values.high;
            weights[at] = narrow(vec4(low[0][$r$], low[1][$r$], low[2][$r$], low[3][$r$]));
            weights[at + 4u] = narrow(vec4(high[0][$r$], high[1][$r$], high[2][$r$], high[3][$r$]));
        }
#end
#for n 0 $READS$
        rows[(t / 16u + (THREADS / 16u) * $n$u) * STRIDE + t % 16u] = narrow(x$n$);
#end
        workgroupBarrier();
#if PLAIN
#for r 0 $OWN_TILES$
#for c 0 2
#for n 0 8
        {
            let row = (row0 + 16u * $r$u + lane / 2u) * STRIDE;
            let column = (column0 + 16u * $c$u + lane % 2u * 8u + $n$u) * STRIDE;
            for (var k = 0u; k < 16u; k++) {
                c$r$_$c$_$n$ += dot(vec4<f32>(rows[row + k]), vec4<f32>(weights[column + k]));
            }
        }
#end
#end
#end
#else
#for s 0 4
        {
            let k = 4u * $s$u;
#for r 0 $OWN_TILES$
            let a$r$ = coopLoadT<coop_mat16x16<f16, A>>(&rows[(row0 + 16u * $r$u) * STRIDE + k], STRIDE);
#end
#for c 0 2
            {
                let other = coopLoad<coop_mat16x16<f16, B>>(&weights[(column0 + 16u * $c$u) * STRIDE + k], STRIDE);
#for r 0 $OWN_TILES$
                c$r$_$c$ = coopMultiplyAdd(a$r$, other, c$r$_$c$);
#end
            }
#end
        }
#end
#endif
    }
    // A lane has eight columns of a row of each matrix.
    let at = subgroup * 256u + lane * 8u;
#for r 0 $OWN_TILES$
    {
        let row = first + row0 + 16u * $r$u + lane / 2u;
#if GATED
        var gates: array<f32, 8>;
#endif
#for c 0 2
        workgroupBarrier();
#if PLAIN
#for n 0 8
        made[at + $n$u] = c$r$_$c$_$n$;
#end
#else
        coopStoreT(c$r$_$c$, &made[subgroup * 256u], 16u);
#endif
        workgroupBarrier();
        for (var n = 0u; n < 8u; n++) {
#if GATED
            let column = (group.x * (TILE_COLUMNS / 32u) + column0 / 32u) * 16u + lane % 2u * 8u + n;
            if $c$u == 0u {
                gates[n] = made[at + n];
            } else if row < count && column < p.part[0].rows {
                out[row * p.out_stride + p.part[0].out + column] = gated(
                    biased(p.part[0].bias, column, gates[n] * p.part[0].factor),
                    biased(p.part[1].bias, column, made[at + n] * p.part[1].factor),
                );
            }
#else
            let column = tile * TILE_COLUMNS + column0 + 16u * $c$u + lane % 2u * 8u + n;
            if row < count && column < part.rows {
                finish(part, row, column, made[at + n]);
            }
#endif
        }
#end
    }
#end
}
