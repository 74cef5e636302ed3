//! Products on a device against double precision.

mod common;

use common::{Random, device, floats, matrix, near, panels};
use goldcrest_gpu::{
    Builder, Class, Count, Device, Floats, Io, Kind, Matrix, Norm, Part, Pass, Product, Tiles,
    Vectors, Weights, supports,
};
use goldcrest_kernels::{Format, Nonlinearity};

const CLASSES: [(Class, usize); 3] = [(Class::One, 1), (Class::Few, 7), (Class::Many, 71)];

fn run(
    device: &Device,
    io: &Io,
    builder: Builder<'_>,
    rows: usize,
    out: (&Floats, usize),
) -> Vec<f32> {
    let plan = builder.finish().unwrap();
    let mut all = Vec::new();
    let pass = Pass { rows, wanted: &[], runs: &[] };
    let submits =
        device.run(io, &[&plan], &pass, (out.0, rows, out.1), |_, row| all.extend_from_slice(row));
    assert_eq!(submits.unwrap(), 1);
    all
}

fn products(x: &[f32], w: &[f32], rows: usize, n: usize, k: usize) -> Vec<(f64, f64)> {
    let product = |row: usize, column: usize| {
        let terms = (0..k).map(|i| f64::from(x[row * k + i]) * f64::from(w[column * k + i]));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    };
    (0..rows * n).map(|at| product(at / n, at % n)).collect()
}

/// Multiples of 1/128 of which bytes lose nothing: each 32 have one of 127/128.
fn whole(count: usize, random: &mut Random) -> Vec<f32> {
    let number = |i: usize| match i % 32 {
        0 => 127.0,
        _ => (random.next() % 255) as f32 - 127.0,
    };
    (0..count).map(number).map(|x| x / 128.0).collect()
}

#[test]
fn every_format_multiplies_rows_of_every_class() {
    let Some(device) = device() else { return };
    let io = Io::new(&device).unwrap();
    let vectors = Vectors::default().upload(&device).unwrap();
    let formats = Format::ALL.iter().copied().filter(|&format| supports(format));
    assert!(formats.clone().count() >= 20);
    for format in formats {
        // The widths that a kernel has another number of threads for, and one that is no multiple
        // of its steps.
        for (n, k) in [(16, 256), (75, 768), (33, 2304)] {
            let k = if format.block_len() == 1 { k + 3 } else { k };
            let mut random = Random(k as u64);
            let (bytes, values) = panels(format, n, k, &mut random);
            let matrix = matrix(&device, format, n, k, &bytes);
            for (class, rows) in CLASSES {
                let bytes = class != Class::Many && format.block_len() > 1;
                let x = if bytes { whole(rows * k, &mut random) } else { random.floats(rows * k) };
                let input = floats(&device, rows, k, &x);
                let out = Floats::new(&device, rows, n).unwrap();
                // Cooperative matrices are of half floats.
                let mut builder = Builder::new(&device, &io, class).tiles(Tiles::Single);
                let product = Product {
                    parts: &[Part { matrix: &matrix, bias: None, column: 0 }],
                    input: &input,
                    norm: None,
                    pending: None,
                    out: &out,
                    kind: Kind::Store { scale: 1.0, act: None },
                    count: Count::Pass,
                    row_factor: None,
                    vectors: &vectors,
                };
                builder.product(&product).unwrap();
                let got = run(&device, &io, builder, rows, (&out, n));
                let want = products(&x, &values, rows, n, k);
                near(&format!("{format} {n} x {k}, {class:?}"), &got, &want);
            }
        }
    }
}

/// Rows of few are multiplied as bytes: each number is off by half a step of its 32 at most, and mostly
/// by less. With a norm and without one, where a workgroup makes the bytes and where a step does.
#[test]
fn bytes_are_as_close_as_their_steps() {
    let Some(device) = device() else { return };
    let io = Io::new(&device).unwrap();
    let (n, k) = (48, 1024);
    let mut random = Random(3);
    let weights: Vec<f32> = random.floats(k).iter().map(|x| 1.0 + 0.5 * x).collect();
    let (mut all, eps) = (Vectors::default(), 1e-5);
    let norm = Norm { weight: all.add(&weights), eps, ..Norm::default() };
    let vectors = all.upload(&device).unwrap();
    let (bytes, values) = panels(Format::Q4_K, n, k, &mut random);
    let matrix = matrix(&device, Format::Q4_K, n, k, &bytes);
    for (class, rows, norm) in
        [(Class::One, 1, None), (Class::One, 1, Some(norm)), (Class::Few, 5, None)]
    {
        let x = random.floats(rows * k);
        let input = floats(&device, rows, k, &x);
        let out = Floats::new(&device, rows, n).unwrap();
        let mut builder = Builder::new(&device, &io, class);
        builder
            .product(&Product {
                parts: &[Part { matrix: &matrix, bias: None, column: 0 }],
                input: &input,
                norm,
                pending: None,
                out: &out,
                kind: Kind::Store { scale: 1.0, act: None },
                count: Count::Pass,
                row_factor: None,
                vectors: &vectors,
            })
            .unwrap();
        let got = run(&device, &io, builder, rows, (&out, n));
        let read = match norm {
            None => x,
            Some(_) => {
                let mean = x.iter().map(|x| x * x).sum::<f32>() / k as f32;
                let factor = 1.0 / (mean + eps).sqrt();
                x.iter().zip(&weights).map(|(x, w)| x * w * factor).collect()
            }
        };
        let want = products(&read, &values, rows, n, k);
        let off = |(got, (want, _)): (&f32, &(f64, f64))| (f64::from(*got) - want).powi(2);
        let error = got.iter().zip(&want).map(off).sum::<f64>();
        let size = want.iter().map(|(want, _)| want * want).sum::<f64>();
        let error = (error / size).sqrt();
        // Of numbers spread evenly over 254 steps the error is 1/254 of a third of the range's root.
        assert!((0.0005..0.01).contains(&error), "{class:?} {norm:?}: {error}");
    }
}

/// Tiles of half floats, in loops: what cooperative matrices compute, on a device without.
#[test]
fn tiles_of_half_floats_are_as_close_as_those_are() {
    let Some(device) = device() else { return };
    assert!(device.info().half, "a device without half floats: name another one");
    let io = Io::new(&device).unwrap();
    let vectors = Vectors::default().upload(&device).unwrap();
    let mut random = Random(5);
    // Small tiles and large ones; several parts of other formats, and gates.
    for (n, k, rows) in [(150, 768, 71), (33, 259, 30), (300, 512, 130), (40, 96, 3)] {
        for kind in [Kind::Store { scale: 1.0, act: None }, Kind::Gated(Nonlinearity::Sigmoid)] {
            let of = |format: Format| k % format.block_len() == 0;
            let formats = [Format::F32, Format::Q6_K, Format::Q8_0];
            let formats: Vec<_> = formats.into_iter().filter(|&format| of(format)).collect();
            let gated = matches!(kind, Kind::Gated(_));
            let count = if gated { 2 } else { 3 };
            let matrices = Matrices::new(&device, (n, k), &formats, count, &mut random);
            let parts: Vec<_> = matrices.parts(n).collect();
            let x = random.floats(rows * k);
            let input = floats(&device, rows, k, &x);
            let width = if gated { n } else { n * count };
            for tiles in [Tiles::MatricesInLoops, Tiles::Matrices] {
                if tiles == Tiles::Matrices && !device.info().matrices {
                    continue;
                }
                let out = Floats::new(&device, rows, width).unwrap();
                let mut builder = Builder::new(&device, &io, Class::Many).tiles(tiles);
                let product = Product {
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
                builder.product(&product).unwrap();
                let got = run(&device, &io, builder, rows, (&out, width));
                matrices.check(&x, (rows, n, k), gated, &got);
            }
        }
    }
}

/// Matrices of several formats in one buffer.
struct Matrices {
    all: Vec<Matrix>,
    values: Vec<Vec<f32>>,
}

impl Matrices {
    fn new(
        device: &Device,
        (n, k): (usize, usize),
        formats: &[Format],
        count: usize,
        random: &mut Random,
    ) -> Self {
        let mut bytes = Vec::new();
        let (mut places, mut values) = (Vec::new(), Vec::new());
        for &format in formats.iter().cycle().take(count) {
            let (panels, own) = panels(format, n, k, random);
            places.push((format, bytes.len()));
            bytes.extend(panels);
            values.push(own);
        }
        let weights = Weights::upload(device, &bytes).unwrap();
        let all = places.into_iter().map(|(format, at)| {
            let (weights, stride) = (weights.clone(), format.panel_bytes(k));
            Matrix { weights, format, rows: n, k, at, stride, factor: 1.0 }
        });
        Self { all: all.collect(), values }
    }

    /// Side by side; those of a gate one upon the other.
    fn parts(&self, n: usize) -> impl Iterator<Item = Part<'_>> {
        let places = self.all.iter().enumerate();
        places.map(move |(i, matrix)| Part { matrix, bias: None, column: i * n })
    }

    fn check(&self, x: &[f32], (rows, n, k): (usize, usize, usize), gated: bool, got: &[f32]) {
        let all: Vec<_> = self.values.iter().map(|w| products(x, w, rows, n, k)).collect();
        for (row, got) in got.chunks_exact(got.len() / rows).enumerate() {
            for (column, &got) in got.iter().enumerate() {
                let of = |part: usize| all[part][row * n + column % n];
                // Each factor is rounded to eleven bits.
                let (want, bound) = if gated {
                    let ((gate, gate_size), (up, up_size)) = (of(0), of(1));
                    let open = 1.0 / (1.0 + (-gate).exp());
                    (open * up, 1e-3 * (open * up_size + 0.25 * gate_size * up.abs()))
                } else {
                    let (want, size) = of(column / n);
                    (want, 1e-3 * size)
                };
                let error = (f64::from(got) - want).abs();
                assert!(error <= bound + 1e-9, "{n} x {k}, {row} {column}: {got}, not {want}");
            }
        }
    }
}
