//! Times products on a device: `kernels [DEVICE]`. Weights are larger than caches, so that one row reads
//! memory; of many rows the multiplications count.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use goldcrest_gpu::{
    Bandwidth, Builder, Class, Count, Device, Floats, Io, Kind, Matrix, Part, Pass, Plan, Product,
    Result, Vectors, Weights, supports,
};
use goldcrest_kernels::{Format, PANEL_ROWS};

/// Rows and columns of the matrices, and the bytes that all together have.
const SHAPE: (usize, usize) = (4096, 4096);
const BYTES: usize = 256 << 20;
const ROWS: usize = 256;
/// How often a submission goes through all matrices, so that what it takes itself (0.2 ms on an H100) is
/// shared by many products.
const REPEATS: usize = 8;

fn main() -> Result<()> {
    let device = Device::open(std::env::args().nth(1).as_deref())?;
    let memory = Bandwidth::new(&device)?;
    let best =
        (0..5).map(|_| memory.round()).try_fold(0f64, |best, gbs| gbs.map(|g| best.max(g)))?;
    println!("{}: memory gives {best:.0} GB/s", device.info().name);
    println!(
        "{:<8}{:>8}{:>8}{:>14}{:>14}",
        "format", "GB/s", "of it", "us/product", "TFLOP/s x256"
    );
    for &format in Format::ALL.iter().filter(|&&format| supports(format)) {
        let (bytes, seconds, count) = time(&device, format, 1)?;
        let gbs = bytes as f64 * 1e-9 / seconds;
        let (_, many, many_count) = time(&device, format, ROWS)?;
        let work = 2.0 * (SHAPE.0 * SHAPE.1 * ROWS * many_count) as f64;
        let (share, each) = (100.0 * gbs / best, seconds * 1e6 / count as f64);
        let flops = work * 1e-12 / many;
        println!("{format:<8}{gbs:>8.0}{share:>7.0}%{each:>14.1}{flops:>14.1}");
    }
    Ok(())
}

/// Bytes of all matrices, the best time of a pass over them, and how many they are.
fn time(device: &Device, format: Format, rows: usize) -> Result<(usize, f64, usize)> {
    let (n, k) = SHAPE;
    let bytes = n / PANEL_ROWS * format.panel_bytes(k);
    let count = if rows == 1 { BYTES.div_ceil(bytes) } else { 4 };
    let panels = vec![0x11; bytes];
    let matrices = (0..count).map(|_| {
        let weights = Weights::upload(device, &panels)?;
        let stride = format.panel_bytes(k);
        Ok(Matrix { weights, format, rows: n, k, at: 0, stride, factor: 1.0 })
    });
    let matrices: Vec<_> = matrices.collect::<Result<_>>()?;
    let (io, vectors) = (Io::new(device)?, Vectors::default().upload(device)?);
    let (input, out) = (Floats::new(device, ROWS, k)?, Floats::new(device, ROWS, n)?);
    let mut builder = Builder::new(device, &io, Class::of(rows));
    for matrix in matrices.iter().cycle().take(REPEATS * count) {
        builder.product(&Product {
            parts: &[Part { matrix, bias: None, column: 0 }],
            input: &input,
            norm: None,
            pending: None,
            out: &out,
            kind: Kind::Store { scale: 1.0, act: None },
            count: Count::Pass,
            row_factor: None,
            vectors: &vectors,
        })?;
    }
    let plan: Plan = builder.finish()?;
    let pass = Pass { rows, wanted: &[], runs: &[] };
    let run = || {
        let start = Instant::now();
        device.run(&io, &[&plan], &pass, (&out, 1, 4), |_, _| ())?;
        Ok::<_, goldcrest_gpu::Error>(start.elapsed().as_secs_f64())
    };
    // A device that was idle has a slow clock.
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 0.2 {
        run()?;
    }
    let best = (0..6).map(|_| run()).try_fold(f64::INFINITY, |best, t| t.map(|t| best.min(t)))?;
    Ok((REPEATS * bytes * count, best, REPEATS * count))
}
