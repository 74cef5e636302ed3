/// Rows 4 q to 4 q + 3 of a panel times the rows of the input, whose numbers are bytes under a scale for
/// each 32: the part of the blocks `slot`, `slot + SLOTS`, and so on. Sums of a block are exact.
fn dot_$F$(panel: u32, q: u32, slot: u32, first: u32) -> array<vec4<f32>, $M$> {
    var sums: array<vec4<f32>, $M$>;
    for (var b = slot; b < BLOCKS; b += $SLOTS$u) {
        let s = scales_$F$(panel, q, b);
#for m 0 $M$
        var low$m$ = vec4<i32>(0);
#if SPLIT
        var high$m$ = vec4<i32>(0);
#endif
#end
#for j 0 4
        {
            let codes = words_$F$(panel, q, b, $j$u);
#for m 0 $M$
            low$m$ += four_bytes(codes.low, code(first + $m$u, b * 8u + $j$u));
#if SPLIT
            high$m$ += four_bytes(codes.high, code(first + $m$u, b * 8u + $j$u + 4u));
#else
            low$m$ += four_bytes(codes.high, code(first + $m$u, b * 8u + $j$u + 4u));
#endif
#end
        }
#end
#for m 0 $M$
        {
            // The scale of the input's numbers, and it times the sums of the codes of either half.
            let block = scale_of(first + $m$u, b);
#if SPLIT
            sums[$m$] += block.x * (s.scale[0] * vec4<f32>(low$m$) + s.scale[1] * vec4<f32>(high$m$))
                + block.y * s.min[0] + block.z * s.min[1];
#else
            sums[$m$] += block.x * s.scale[0] * vec4<f32>(low$m$) + (block.y + block.z) * s.min[0];
#endif
        }
#end
    }
    return sums;
}
