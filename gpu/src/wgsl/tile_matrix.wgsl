// Products of many rows by cooperative matrices of half floats: a workgroup of four subgroups makes 64
// columns of 64 rows, a subgroup 32 of each. Sums are single precision.

/// Vectors of four along K of a column or a row, 64 values and what keeps rows apart in banks.
const STRIDE = 18u;

/// `[column][k / 4]` and `[row][k / 4]`
var<workgroup> weights: array<vec4<f16>, 1152>;
var<workgroup> rows: array<vec4<f16>, 1152>;
/// `[row][column]`
var<workgroup> made: array<f32, 4096>;

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

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let count = pass_[p.count];
    let first = group.y * 64u;
    // What this thread decodes: of a panel of the tile, four rows of eight values of one block of two.
    let own = t / 16u % 4u;
    let q = t % 4u;
    let j = t / 4u % 4u;
#if GATED
    // Panels of the tile: gate, up, gate, up.
    let part = p.part[own % 2u];
    let panels = (p.part[0].rows + 15u) / 16u;
    let panel = min(group.x * 2u + own / 2u, panels - 1u);
#else
    let part = p.part[0];
    let panels = (part.rows + 15u) / 16u;
    let panel = min(group.x * 4u + own, panels - 1u);
#endif
    let origin = part.at + panel * part.stride;
    let row0 = t / 32u % 2u * 32u;
    let column0 = t / 64u * 32u;
#if PLAIN
#for n 0 32
    var c$n$ = 0.0;
#end
#else
    var c00 = coop_mat16x16<f32, C>();
    var c01 = coop_mat16x16<f32, C>();
    var c10 = coop_mat16x16<f32, C>();
    var c11 = coop_mat16x16<f32, C>();
#endif
    let blocks = (p.k + 31u) / 32u;
    for (var b = 0u; b < blocks; b += 2u) {
        let half = t / 64u;
        let values = decode(part.format, origin, q, b + half, j);
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
#for n 0 8
        {
            let row = t / 16u + 8u * $n$u;
            let k = t % 16u;
            var v = vec4(0.0);
            if 32u * b + 4u * k < p.k {
                v = x[min(first + row, count - 1u) * p.x_stride + 8u * b + k];
            }
            rows[row * STRIDE + k] = narrow(v);
        }
#end
        workgroupBarrier();
#if PLAIN
#for n 0 32
        {
            let row = t / 2u * STRIDE;
            let column = (t % 2u * 32u + $n$u) * STRIDE;
            for (var k = 0u; k < 16u; k++) {
                c$n$ += dot(vec4<f32>(rows[row + k]), vec4<f32>(weights[column + k]));
            }
        }
#end
#else
#for s 0 4
        {
            let k = 4u * $s$u;
            let a0 = coopLoadT<coop_mat16x16<f16, A>>(&rows[row0 * STRIDE + k], STRIDE);
            let a1 = coopLoadT<coop_mat16x16<f16, A>>(&rows[(row0 + 16u) * STRIDE + k], STRIDE);
            let b0 = coopLoad<coop_mat16x16<f16, B>>(&weights[column0 * STRIDE + k], STRIDE);
            let b1 = coopLoad<coop_mat16x16<f16, B>>(&weights[(column0 + 16u) * STRIDE + k], STRIDE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
#end
#endif
    }
#if PLAIN
#for n 0 32
    made[t / 2u * 64u + t % 2u * 32u + $n$u] = c$n$;
#end
#else
    coopStoreT(c00, &made[row0 * 64u + column0], 64u);
    coopStoreT(c01, &made[row0 * 64u + column0 + 16u], 64u);
    coopStoreT(c10, &made[(row0 + 16u) * 64u + column0], 64u);
    coopStoreT(c11, &made[(row0 + 16u) * 64u + column0 + 16u], 64u);
#endif
    workgroupBarrier();
#if GATED
    for (var n = t; n < 2048u; n += 128u) {
        let row = n / 32u;
        let column = group.x * 32u + n % 32u;
        if first + row < count && column < p.part[0].rows {
            let at = row * 64u + n % 32u / 16u * 32u + n % 16u;
            out[(first + row) * p.out_stride + p.part[0].out + column] = gated(
                biased(p.part[0].bias, column, made[at] * p.part[0].factor),
                biased(p.part[1].bias, column, made[at + 16u] * p.part[1].factor),
            );
        }
    }
#else
    for (var n = t; n < 4096u; n += 128u) {
        let row = n / 64u;
        let column = group.x * 64u + n % 64u;
        if first + row < count && column < part.rows {
            finish(part, first + row, column, made[n]);
        }
    }
#endif
}
