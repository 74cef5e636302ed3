// Each thread makes 32 numbers of a row bytes.

struct Params { blocks: u32, stride: u32, pad0: u32, pad1: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> scales: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let b = group.x * 64u + t;
    if b >= p.blocks {
        return;
    }
    let origin = group.y * p.stride + b * 8u;
    var block: array<vec4<f32>, 8>;
#for i 0 8
    block[$i$] = x[origin + $i$u];
#end
    let made = as_bytes(block);
    let at = group.y * p.blocks + b;
#for i 0 8
    codes[at * 8u + $i$u] = made.codes[$i$];
#end
    scales[at] = made.scale;
}
