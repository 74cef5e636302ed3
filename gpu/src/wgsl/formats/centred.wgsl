// Q3_K, Q6_K, IQ4_XS: see the crate goldcrest-kernels, matmul/centred.rs. A unit of UNIT vectors has
// 256 values: codes (8 x BLOCK), scales (a vector for each byte of a row), scales of scales.

#if SIX_BITS
/// The scale of group g or g + 1, 32 above itself.
fn six_bits_$F$(low: vec4<u32>, high: vec4<u32>, g: u32) -> vec4<u32> {
    let four = (low >> vec4(g / 8u * 4u)) & vec4(15u);
    return four | (((high >> vec4(g / 4u * 2u)) & vec4(3u)) << vec4(4u));
}

#endif
fn scales_$F$(panel: u32, q: u32, block: u32) -> Scales {
    let unit = panel + block / 8u * $UNIT$u;
    let at = unit + 8u * $BLOCK$u;
    let d = halves(at + $SCALES$u, q);
#if SIXTEENS
    let g = block % 8u * 2u;
#if SIX_BITS
    let low = array(row_bytes(at + g % 8u, q), row_bytes(at + g % 8u + 1u, q));
    let high = array(row_bytes(at + 8u + g % 4u, q), row_bytes(at + 9u + g % 4u, q));
    // As integers: sums of floats might be reordered.
    let a = six_bits_$F$(low[0], high[0], g);
    let b = six_bits_$F$(low[1], high[1], g);
    let scale = array(d * (bits(a, 0u, 63u) - vec4(32.0)), d * (bits(b, 0u, 63u) - vec4(32.0)));
#else
    let scale = array(d * signed(row_bytes(at + g, q)), d * signed(row_bytes(at + g + 1u, q)));
#endif
    return Scales(scale, array(-$OFFSET$ * scale[0], -$OFFSET$ * scale[1]));
#else
    let scale = d * signed(row_bytes(at + block % 8u, q));
    return both(scale, -$OFFSET$ * scale);
#endif
}

fn words_$F$(panel: u32, q: u32, block: u32, j: u32) -> Words {
    let at = panel + block / 8u * $UNIT$u + block % 8u * $BLOCK$u;
#if TABLE
    let codes = nibbles(w[at + j * 4u + q]);
    let table = vec4<u32>($TABLE$);
    return Words(looked(table, codes.low), looked(table, codes.high));
#else
    let twos = vec4(0x03030303u);
#if SIX_BITS
    // Three bits: two, and one above them.
    let ones = vec4(0x01010101u);
    let third = w[at + 8u + q];
    return Words(
        ((w[at + q] >> vec4(2u * j)) & twos) | (((third >> vec4(j)) & ones) << vec4(2u)),
        ((w[at + 4u + q] >> vec4(2u * j)) & twos) | (((third >> vec4(j + 4u)) & ones) << vec4(2u)),
    );
#else
    let codes = nibbles(w[at + j * 4u + q]);
    return Words(
        codes.low | (((w[at + 16u + q] >> vec4(2u * j)) & twos) << vec4(4u)),
        codes.high | (((w[at + 20u + q] >> vec4(2u * j)) & twos) << vec4(4u)),
    );
#endif
#endif
}
