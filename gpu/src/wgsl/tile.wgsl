// Products of many rows: a workgroup makes 64 columns of 64 rows, a thread eight of each. Every block
// of 32 along K is decoded into shared memory once for all 64 rows.

/// `[k][column / 4]` and `[k][row / 4]`.
var<workgroup> weights: array<vec4<f32>, 512>;
var<workgroup> rows: array<vec4<f32>, 512>;

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

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let count = pass_[p.count];
    let first = group.y * 64u;
    // What this thread decodes: of panel `t / 16` of the tile.
    let own_q = t / 4u % 4u;
    let own_j = t % 4u;
#if GATED
    // Panels of the tile: gate, up, gate, up.
    let half = t / 16u % 2u;
    let panels = (p.part[0].rows + 15u) / 16u;
    let own_panel = min(group.x * 2u + t / 32u, panels - 1u);
    let own = p.part[half];
#else
    let own = p.part[0];
    let panels = (own.rows + 15u) / 16u;
    let own_panel = min(group.x * 4u + t / 16u, panels - 1u);
#endif
    let origin = own.at + own_panel * own.stride;
    let own_row = min(first + t, count - 1u) * p.x_stride;
    let row8 = t / 8u * 2u;
    let column = t % 8u / 4u * 8u + t % 4u;
#for r 0 8
    var a$r$ = vec4(0.0);
    var b$r$ = vec4(0.0);
#end
    let blocks = (p.k + 31u) / 32u;
    for (var b = 0u; b < blocks; b++) {
        let made = decode(own.format, origin, own_q, b, own_j);
        workgroupBarrier();
#for c 0 4
        weights[(4u * own_j + $c$u) * 16u + t / 4u / 4u * 4u + own_q] = made.low[$c$];
        weights[(16u + 4u * own_j + $c$u) * 16u + t / 4u / 4u * 4u + own_q] = made.high[$c$];
#end
        for (var i = 0u; i < 8u; i++) {
            var v = vec4(0.0);
            if b * 32u + i * 4u < p.k {
                v = x[own_row + b * 8u + i];
            }
#for c 0 4
            rows[(4u * i + $c$u) * 16u + t / 4u][t % 4u] = v[$c$];
#end
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k++) {
            let wa = weights[k * 16u + column];
            let wb = weights[k * 16u + column + 4u];
            let xa = rows[k * 16u + row8];
            let xb = rows[k * 16u + row8 + 1u];
#for r 0 4
            a$r$ += wa * xa[$r$];
            b$r$ += wb * xa[$r$];
#end
            a4 += wa * xb[0];
            b4 += wb * xb[0];
            a5 += wa * xb[1];
            b5 += wb * xb[1];
            a6 += wa * xb[2];
            b6 += wb * xb[2];
            a7 += wa * xb[3];
            b7 += wb * xb[3];
        }
    }
    let q = t % 4u;
    let pair = t % 8u / 4u;
#for r 0 8
    if first + 4u * row8 + $r$u < count {
        let row = first + 4u * row8 + $r$u;
#if GATED
        for (var i = 0u; i < 4u; i++) {
            let column = (group.x * 2u + pair) * 16u + 4u * q + i;
            if column < p.part[0].rows {
                out[row * p.out_stride + p.part[0].out + column] = gated(
                    biased(p.part[0].bias, column, a$r$[i] * p.part[0].factor),
                    biased(p.part[1].bias, column, b$r$[i] * p.part[1].factor),
                );
            }
        }
#else
        for (var i = 0u; i < 4u; i++) {
            let column = (group.x * 4u + 2u * pair) * 16u + 4u * q + i;
            if column < own.rows {
                finish(own, row, column, a$r$[i]);
            }
            if column + 16u < own.rows {
                finish(own, row, column + 16u, b$r$[i]);
            }
        }
#endif
    }
#end
}
