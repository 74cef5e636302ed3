// Q2_K, Q4_K, Q5_K: see the crate goldcrest-kernels, matmul/affine.rs. A unit of UNIT vectors has 256
// values: scales of scales and minima (2 vectors each), scales (8), minima (8), codes (8 x BLOCK).

fn scales_$F$(panel: u32, q: u32, block: u32) -> Scales {
    let at = panel + block / 8u * $UNIT$u;
    let b = block % 8u;
    let d = halves(at, q);
    let dmin = -halves(at + 2u, q);
#if NIBBLES
    // Of 16 groups of 16: both halves in one byte, minima of a pair two bytes apart.
    let scale = row_bytes(at + 4u + b, q);
    let byte = b % 4u / 2u * 8u;
    let shift = b % 2u * 4u;
    let mins = w[at + 12u + b / 4u * 4u + q];
    return Scales(
        array(d * bits(scale, 0u, 15u), d * bits(scale, 4u, 15u)),
        array(dmin * bits(mins, byte + shift, 15u), dmin * bits(mins, byte + 16u + shift, 15u)),
    );
#else
    let scale = d * bits(row_bytes(at + 4u + b, q), 0u, 255u);
    return both(scale, dmin * bits(w[at + 12u + b / 4u * 4u + q], b % 4u * 8u, 255u));
#endif
}

fn words_$F$(panel: u32, q: u32, block: u32, j: u32) -> Words {
    let at = panel + block / 8u * $UNIT$u + 20u + block % 8u * $BLOCK$u;
#if TWO
    let twos = vec4(0x03030303u);
    return Words((w[at + q] >> vec4(2u * j)) & twos, (w[at + 4u + q] >> vec4(2u * j)) & twos);
#else
    let codes = nibbles(w[at + j * 4u + q]);
#if FIFTH
    let fifth = w[at + 16u + q];
    let ones = vec4(0x01010101u);
    return Words(
        codes.low | (((fifth >> vec4(j)) & ones) << vec4(4u)),
        codes.high | (((fifth >> vec4(j + 4u)) & ones) << vec4(4u)),
    );
#else
    return codes;
#endif
#endif
}
