// Q1_0, Q2_0, PQ2_0, TQ2_0: see the crate goldcrest-kernels, matmul/low_bit.rs. A unit of UNIT vectors
// has 256 values: CODES vectors of codes, and a scale for each SPAN values.

fn scales_$F$(panel: u32, q: u32, block: u32) -> Scales {
    let unit = panel + block / 8u * $UNIT$u;
    let scale = halves(unit + $CODES$u + block % 8u * 32u / $SPAN$u * 2u, q);
    return both($STEP$ * scale, -scale);
}

fn pair_$F$(panel: u32, q: u32, block: u32, j: u32) -> Pair {
    let at = panel + block / 8u * $UNIT$u + block % 8u * $CODES$u / 8u;
#if ONE
    let word = w[at + q];
    return Pair(bytes(word, j, 1u), bytes(word, j + 4u, 1u));
#else
    return Pair(bytes(w[at + q], 2u * j, 3u), bytes(w[at + 4u + q], 2u * j, 3u));
#endif
}
