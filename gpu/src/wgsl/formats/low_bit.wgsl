// Q1_0, Q2_0, PQ2_0, TQ2_0: see the crate goldcrest-kernels, matmul/low_bit.rs. A unit of UNIT vectors
// has 256 values: CODES vectors of codes, and a scale for each SPAN values.

fn scales_$F$(panel: u32, q: u32, block: u32) -> Scales {
    let unit = panel + block / 8u * $UNIT$u;
    let scale = halves(unit + $CODES$u + block % 8u * 32u / $SPAN$u * 2u, q);
    return both($STEP$ * scale, -scale);
}

fn words_$F$(panel: u32, q: u32, block: u32, j: u32) -> Words {
    let at = panel + block / 8u * $UNIT$u + block % 8u * $CODES$u / 8u;
#if ONE
    let ones = vec4(0x01010101u);
    return Words((w[at + q] >> vec4(j)) & ones, (w[at + q] >> vec4(j + 4u)) & ones);
#else
    let twos = vec4(0x03030303u);
    return Words((w[at + q] >> vec4(2u * j)) & twos, (w[at + 4u + q] >> vec4(2u * j)) & twos);
#endif
}
