//! Products on a device against double precision.

mod common;

use common::{Random, device, floats, matrix, near, panels};
use goldcrest_gpu::{
    Builder, Class, Count, Device, Floats, Io, Kind, Part, Pass, Product, Tiles, Vectors, supports,
};
use goldcrest_kernels::Format;

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
                let x = random.floats(rows * k);
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

/// Tiles of half floats, in loops: what cooperative matrices compute, on a device without.
#[test]
fn tiles_of_half_floats_are_as_close_as_those_are() {
    let Some(device) = device() else { return };
    assert!(device.info().half, "a device without half floats: name another one");
    let io = Io::new(&device).unwrap();
    let vectors = Vectors::default().upload(&device).unwrap();
    for format in [Format::F32, Format::Q6_K] {
        for (n, k, rows) in [(150, 768, 71)] {
            let k = if format.block_len() == 1 { k + 3 } else { k };
            let mut random = Random(k as u64);
            let (bytes, values) = panels(format, n, k, &mut random);
            let matrix = matrix(&device, format, n, k, &bytes);
            let x = random.floats(rows * k);
            let input = floats(&device, rows, k, &x);
            let out = Floats::new(&device, rows, n).unwrap();
            for tiles in [Tiles::MatricesInLoops, Tiles::Matrices] {
                if tiles == Tiles::Matrices && !device.info().matrices {
                    continue;
                }
                let mut builder = Builder::new(&device, &io, Class::Many).tiles(tiles);
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
                for (got, (want, size)) in got.iter().zip(&want) {
                    let error = (f64::from(*got) - want).abs();
                    // Each factor is rounded to eleven bits.
                    assert!(
                        error <= 1e-3 * size,
                        "{format} {n} x {k} {tiles:?}: {got}, not {want}"
                    );
                }
            }
        }
    }
}
