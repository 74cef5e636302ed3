//! Every sort of product, validated by naga and written for Vulkan, Metal and Direct3D.

mod common;

use common::{Random, device, matrix, panels};
use goldcrest_gpu::{
    Attention, Builder, CacheLayout, Class, Count, Device, Floats, Io, Kind, KvFormat, Norm,
    NormStep, Part, Pending, Product, Tiles, Vectors, partials, supports,
};
use goldcrest_kernels::{Format, Nonlinearity};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ValidationFlags, Validator};

const KINDS: [Kind; 4] = [
    Kind::Store { scale: 1.0, act: Some(Nonlinearity::GeluErf) },
    Kind::Capped { scale: 1.0, cap: 30.0 },
    Kind::Add { scale: 1.0 },
    Kind::Gated(Nonlinearity::Silu),
];

/// Asks a device for kernels of all kinds. What it cannot run is refused, but known by its text.
fn ask(device: &Device) {
    let io = Io::new(device).unwrap();
    let vectors = Vectors::default().upload(device).unwrap();
    let new = |width| Floats::new(device, 1, width).unwrap();
    let (input, mixed, to, out) = (new(256), new(256), new(256), new(64));
    let formats = Format::ALL.iter().copied().filter(|&format| supports(format));
    for format in formats {
        let (bytes, _) = panels(format, 32, 256, &mut Random(1));
        let matrix = matrix(device, format, 32, 256, &bytes);
        let part = Part { matrix: &matrix, bias: None, column: 0 };
        for kind in KINDS {
            let count = if matches!(kind, Kind::Gated(_)) { 2 } else { 1 };
            let parts = vec![part; count];
            let plain = Product {
                parts: &parts,
                input: &input,
                norm: None,
                pending: None,
                out: &out,
                kind,
                count: Count::Pass,
                row_factor: None,
                vectors: &vectors,
            };
            let centred = Some(Norm { centred: true, ..Norm::default() });
            let norm = Norm::default();
            let pending = Pending { mixed: &mixed, norm, mix: 1.0, scale: 1.0, to: &to };
            let mut one = Builder::new(device, &io, Class::One);
            one.product(&plain).unwrap();
            one.product(&Product { norm: Some(norm), ..plain }).unwrap();
            one.product(&Product { norm: centred, ..plain }).unwrap();
            one.product(&Product { norm: Some(norm), pending: Some(pending), ..plain }).unwrap();
            Builder::new(device, &io, Class::Few).product(&plain).unwrap();
            for tiles in [Tiles::Single, Tiles::Matrices] {
                let mut many = Builder::new(device, &io, Class::Many).tiles(tiles);
                let made = many.product(&Product { row_factor: Some(&mixed), ..plain });
                assert!(made.is_ok() || tiles == Tiles::Matrices && !device.info().matrices);
            }
        }
    }
    ask_attention(device, &io, &vectors);
    let step = NormStep {
        k: 256,
        from: Some(&input),
        picked: true,
        to: (&to, 0),
        norm: None,
        keep: 1.0,
        mix: 1.0,
        scale: 1.0,
        vectors: &vectors,
    };
    let mut builder = Builder::new(device, &io, Class::Many);
    builder.norm(&step).unwrap();
    builder.norm(&NormStep { from: None, picked: false, ..step }).unwrap();
}

fn ask_attention(device: &Device, io: &Io, vectors: &Floats) {
    let new = |width| Floats::new(device, 1, width).unwrap();
    let (qkv, angles, out, chunks) = (new(512), new(64), new(256), new(partials(4, 64)));
    for format in [KvFormat::F16, KvFormat::F32] {
        let attention = Attention {
            heads: 4,
            kept: 0,
            cache: CacheLayout { heads: 2, head_dim: 64, format },
            qkv: &qkv,
            kv: Some([256, 384]),
            gated: false,
            norms: [None; 3],
            norms_last: false,
            rope: Some((32, 0, true)),
            angles: &angles,
            scale: 1.0,
            cap: None,
            window: None,
            sinks: None,
            temperature: None,
            out: &out,
            partials: &chunks,
            vectors,
        };
        Builder::new(device, io, Class::One).attention(&attention).unwrap();
        for tiles in [Tiles::Single, Tiles::Matrices] {
            let mut many = Builder::new(device, io, Class::Many).tiles(tiles);
            let made = many.attention(&attention);
            assert!(made.is_ok() || tiles == Tiles::Matrices && !device.info().matrices);
        }
    }
}

#[test]
fn kernels_are_valid_and_can_be_written_for_every_system() {
    let Some(device) = device() else { return };
    ask(&device);
    let kernels = device.kernels();
    assert!(kernels.len() > 400, "{} kernels", kernels.len());
    for text in kernels {
        let of_matrices = text.contains("enable wgpu_cooperative_matrix");
        let mut options = naga::front::wgsl::Options::new();
        options.capabilities = Capabilities::all();
        let mut parser = naga::front::wgsl::Frontend::new_with_options(options);
        let module = parser.parse(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
        let info =
            validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        let mut options = spv::Options::default();
        if of_matrices {
            options.lang_version = (1, 6);
        }
        assert!(!spv::write_vec(&module, &info, &options, None).unwrap().is_empty());
        let (options, pipeline) = (msl::Options::default(), msl::PipelineOptions::default());
        let metal = msl::write_string(&module, &info, &options, &pipeline).map(|(text, _)| text);
        // Cooperative matrices are written for Vulkan and Metal alone.
        let mut direct = String::new();
        let written =
            hlsl::Writer::new(&mut direct, &hlsl::Options::default(), &Default::default())
                .write(&module, &info, None)
                .is_ok();
        if !of_matrices {
            assert!(metal.unwrap().contains("kernel"));
            assert!(written && direct.contains("numthreads"));
        }
    }
}
