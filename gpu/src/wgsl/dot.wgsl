/// Rows 4 q to 4 q + 3 of a panel times the rows of the input: the part of the blocks `slot`,
/// `slot + SLOTS`, and so on.
fn dot_$F$(panel: u32, q: u32, slot: u32, first: u32) -> array<vec4<f32>, $M$> {
    var sums: array<vec4<f32>, $M$>;
#if SCALED
    squares = 0.0;
#endif
    for (var b = slot; b < BLOCKS; b += $SLOTS$u) {
        let s = scales_$F$(panel, q, b);
#for m 0 $M$
        var low$m$ = vec4(0.0);
        var high$m$ = vec4(0.0);
        var x_low$m$ = vec4(0.0);
        var x_high$m$ = vec4(0.0);
#end
#for j 0 4
        {
            let codes = pair_$F$(panel, q, b, $j$u);
#for m 0 $M$
            {
#if SCALED
                // The norm's factor is known when all of the row has passed by.
                let x_a = x[first * p.x_stride + b * 8u + $j$u];
                let x_c = x[first * p.x_stride + b * 8u + $j$u + 4u];
                // What follows the row multiplies with zeros, but is no part of its norm.
                squares += select(0.0, dot(x_a, x_a), 32u * b + 4u * $j$u < p.k)
                    + select(0.0, dot(x_c, x_c), 32u * b + 4u * $j$u + 16u < p.k);
                let a = x_a * norms[p.norm / 4u + b * 8u + $j$u];
                let c = x_c * norms[p.norm / 4u + b * 8u + $j$u + 4u];
#else
                let a = input(first + $m$u, b * 8u + $j$u);
                let c = input(first + $m$u, b * 8u + $j$u + 4u);
#endif
                low$m$ += codes.low * a;
                high$m$ += codes.high * c;
                x_low$m$ += a;
                x_high$m$ += c;
            }
#end
        }
#end
#for m 0 $M$
        sums[$m$] += s.scale[0] * low$m$ + s.scale[1] * high$m$
            + s.min[0] * dot(x_low$m$, vec4(1.0)) + s.min[1] * dot(x_high$m$, vec4(1.0));
#end
    }
    return sums;
}
