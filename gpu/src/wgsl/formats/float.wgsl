// F32, F16, BF16: sixteen values of one k, and then of the next.

fn scales_$F$(panel: u32, q: u32, block: u32) -> Scales {
    return both(vec4(1.0), vec4(0.0));
}

fn value_$F$(panel: u32, q: u32, k: u32) -> vec4<f32> {
    if k >= p.k {
        return vec4(0.0);
    }
#if WORDS
    return bitcast<vec4<f32>>(w[panel + k * 4u + q]);
#else
#if BRAIN
    let two = w[panel + k * 2u + q / 2u];
    let own = select(two.xy, two.zw, (q & 1u) == 1u);
    let words = vec4(own.x << 16u, own.x & 0xffff0000u, own.y << 16u, own.y & 0xffff0000u);
    return bitcast<vec4<f32>>(words);
#else
    return halves(panel + k * 2u, q);
#endif
#endif
}

fn four_$F$(panel: u32, q: u32, k: u32) -> mat4x4<f32> {
    return mat4x4(
        value_$F$(panel, q, k),
        value_$F$(panel, q, k + 1u),
        value_$F$(panel, q, k + 2u),
        value_$F$(panel, q, k + 3u),
    );
}

fn pair_$F$(panel: u32, q: u32, b: u32, j: u32) -> Pair {
    let k = 32u * b + 4u * j;
    return Pair(four_$F$(panel, q, k), four_$F$(panel, q, k + 16u));
}
