// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4: see the crate goldcrest-kernels, matmul/simple.rs.
// A block of 32 has BLOCK vectors of codes; two blocks and their scales are a unit of UNIT vectors.

fn scales_$F$(panel: u32, q: u32, b: u32) -> Scales {
    let at = panel + b / 2u * $UNIT$u + 2u * $BLOCK$u;
#if EXPONENT
    // Half of a power of two; below 2^-127 it is nothing.
    let e = row_bytes(at + b % 2u, q);
    let scale = select(vec4(0.0), bitcast<vec4<f32>>((e - vec4(1u)) << vec4(23u)), e > vec4(1u));
#else
    let scale = halves(at + b % 2u * 2u, q);
#endif
#if MIN
    return both(scale, halves(at + 4u + b % 2u * 2u, q));
#else
    return both(scale, -$OFFSET$ * scale);
#endif
}

fn words_$F$(panel: u32, q: u32, b: u32, j: u32) -> Words {
    let at = panel + b / 2u * $UNIT$u + b % 2u * $BLOCK$u;
    let word = w[at + j * 4u + q];
#if BYTES
    return Words(word ^ vec4($FLIP$u), w[at + j * 4u + 16u + q] ^ vec4($FLIP$u));
#else
    let codes = nibbles(word);
#if FIFTH
    let fifth = w[at + 16u + q];
    let ones = vec4(0x01010101u);
    return Words(
        codes.low | (((fifth >> vec4(j)) & ones) << vec4(4u)),
        codes.high | (((fifth >> vec4(j + 4u)) & ones) << vec4(4u)),
    );
#else
#if TABLE
    let table = vec4<u32>($TABLE$);
    return Words(looked(table, codes.low), looked(table, codes.high));
#else
    return codes;
#endif
#endif
#endif
}
