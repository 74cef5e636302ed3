// Reads a buffer once: every thread one vector in so many.

@group(0) @binding(1) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;
@group(0) @binding(0) var<uniform> p: vec4<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = vec4(0u);
    for (var i = id.x; i < p.x; i += p.y) {
        sum ^= data[i];
    }
    let all = sum.x ^ sum.y ^ sum.z ^ sum.w;
    // The buffer is zero: never, which no compiler knows.
    if all != 0u {
        out[0] = all;
    }
}
