// Rows as bytes: of each 32 numbers the greatest becomes 127.

/// 32 numbers as bytes, and their scale, and it times the sums of either half's bytes.
struct Bytes { codes: array<u32, 8>, scale: vec4<f32> }

fn as_bytes(x: array<vec4<f32>, 8>) -> Bytes {
    var most = vec4(0.0);
#for i 0 8
    most = max(most, abs(x[$i$]));
#end
    let scale = max(max(most.x, most.y), max(most.z, most.w)) / 127.0;
    let inverse = select(0.0, 1.0 / scale, scale > 0.0);
    var made: Bytes;
    var low = 0;
    var high = 0;
#for i 0 4
    made.codes[$i$] = pack4xI8(vec4<i32>(round(x[$i$] * inverse)));
    low += dot4I8Packed(made.codes[$i$], 0x01010101u);
#end
#for i 4 8
    made.codes[$i$] = pack4xI8(vec4<i32>(round(x[$i$] * inverse)));
    high += dot4I8Packed(made.codes[$i$], 0x01010101u);
#end
    made.scale = vec4(scale, scale * f32(low), scale * f32(high), 0.0);
    return made;
}
