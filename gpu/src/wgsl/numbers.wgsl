// What the formats of weights are read with. `w` is the panels of a matrix, sixteen bytes at a time:
// component r of vector 4 n + q belongs to row 4 q + r of the panel.

/// Codes, a byte each: values 4 j to 4 j + 3 of the first and of the second half of a block of 32, of
/// four rows.
struct Words { low: vec4<u32>, high: vec4<u32> }

/// The same as numbers: `low[c]` and `high[c]` are values 4 j + c.
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

/// The bytes of each row's word, as numbers.
fn bytes(word: vec4<u32>) -> mat4x4<f32> {
    return mat4x4(
        bits(word, 0u, 255u),
        bits(word, 8u, 255u),
        bits(word, 16u, 255u),
        bits(word, 24u, 255u),
    );
}

/// Nibbles of each row's word in bytes of their own: the lower ones, and the upper ones.
fn nibbles(word: vec4<u32>) -> Words {
    return Words(word & vec4(0x0f0f0f0fu), (word >> vec4(4u)) & vec4(0x0f0f0f0fu));
}

/// Signed bytes in words of their own, as numbers.
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

/// The byte of a table of sixteen, four a word, that the nibble from bit `at` on of `codes` names.
fn looked_byte(table: vec4<u32>, codes: vec4<u32>, at: u32) -> vec4<u32> {
    let code = (codes >> vec4(at)) & vec4(15u);
    let low = select(vec4(table.x), vec4(table.y), code >= vec4(4u));
    let high = select(vec4(table.z), vec4(table.w), code >= vec4(12u));
    let word = select(low, high, code >= vec4(8u));
    return ((word >> ((code & vec4(3u)) * 8u)) & vec4(255u)) << vec4(at);
}

/// The bytes of a table that the bytes of `codes` name.
fn looked(table: vec4<u32>, codes: vec4<u32>) -> vec4<u32> {
    return looked_byte(table, codes, 0u) | looked_byte(table, codes, 8u)
        | looked_byte(table, codes, 16u) | looked_byte(table, codes, 24u);
}
