// What the formats of weights are read with. `w` is the panels of a matrix, sixteen bytes at a time:
// component r of vector 4 n + q belongs to row 4 q + r of the panel.

/// Codes of four values along K: `low[c]` and `high[c]` are values 4 j + c of the first and of the
/// second half of a block of 32, of four rows each.
struct Pair { low: mat4x4<f32>, high: mat4x4<f32> }

/// value = scale * code + min, for the halves of a block of 32, of four rows each.
struct Scales { scale: array<vec4<f32>, 2>, min: array<vec4<f32>, 2> }

fn both(scale: vec4<f32>, min: vec4<f32>) -> Scales {
    return Scales(array(scale, scale), array(min, min));
}

/// The bits of `mask` from bit `at` on, as numbers. The exponent of 2^23 makes a float of an integer.
fn bits(word: vec4<u32>, at: u32, mask: u32) -> vec4<f32> {
    let code = ((word >> vec4(at)) & vec4(mask)) | vec4(0x4b000000u);
    return bitcast<vec4<f32>>(code) - vec4(8388608.0);
}

/// The bits of `mask` in each byte, from bit `at` on.
fn bytes(word: vec4<u32>, at: u32, mask: u32) -> mat4x4<f32> {
    return mat4x4(
        bits(word, at, mask),
        bits(word, at + 8u, mask),
        bits(word, at + 16u, mask),
        bits(word, at + 24u, mask),
    );
}

/// The same of bytes below 256 that are signed.
fn signed(word: vec4<u32>) -> vec4<f32> {
    return bits(word ^ vec4(128u), 0u, 255u) - vec4(128.0);
}

/// The half floats of rows 4 q to 4 q + 3, of sixteen from vector `at` on.
fn halves(at: u32, q: u32) -> vec4<f32> {
    let two = w[at + q / 2u];
    let own = select(two.xy, two.zw, (q & 1u) == 1u);
    return vec4(unpack2x16float(own.x), unpack2x16float(own.y));
}

/// One byte for each of the rows, of sixteen in vector `at`.
fn row_bytes(at: u32, q: u32) -> vec4<u32> {
    return (vec4(w[at][q]) >> vec4(0u, 8u, 16u, 24u)) & vec4(255u);
}

/// Bytes of a table of sixteen, four a word, by the nibbles of `code`.
fn looked(table: vec4<u32>, code: vec4<u32>) -> vec4<f32> {
    let low = select(vec4(table.x), vec4(table.y), code >= vec4(4u));
    let high = select(vec4(table.z), vec4(table.w), code >= vec4(12u));
    let word = select(low, high, code >= vec4(8u));
    return bits(word >> ((code & vec4(3u)) * 8u), 0u, 255u);
}

fn looked_bytes(table: vec4<u32>, word: vec4<u32>, at: u32) -> mat4x4<f32> {
    return mat4x4(
        looked(table, (word >> vec4(at)) & vec4(15u)),
        looked(table, (word >> vec4(at + 8u)) & vec4(15u)),
        looked(table, (word >> vec4(at + 16u)) & vec4(15u)),
        looked(table, (word >> vec4(at + 24u)) & vec4(15u)),
    );
}
