//! Whether a device computes what the CPU does, before it is trusted with a model.

use goldcrest_gpu::{
    self as gpu, Builder, Class, Count, Device, Floats, Io, Kind, Part, Pass, Product, Vectors,
};
use goldcrest_kernels::{Format, PANEL_ROWS, unpack_row};

use super::place::Placement;
use crate::error::Result;
use crate::model::weights::{Matrix, Weights};
use crate::spec::Mixer;

/// Rows of activations: more than a plan of few has.
const ROWS: usize = Class::FEW + 3;
/// Of the sum of magnitudes.
const TOLERANCE: f64 = 1e-4;

/// Multiplies the first panel of the first matrix of each format on the device, one row and many, and
/// compares.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device) for a device that computes something else.
pub(super) fn self_test(device: &Device, weights: &Weights, placement: &Placement) -> Result<()> {
    let mut tested: Vec<Format> = Vec::new();
    for matrix in matrices(weights, placement) {
        if !tested.contains(&matrix.format) {
            tested.push(matrix.format);
            test(device, weights, matrix)?;
        }
    }
    Ok(())
}

fn matrices<'w>(
    weights: &'w Weights,
    placement: &'w Placement,
) -> impl Iterator<Item = &'w Matrix> {
    let blocks = weights.spec.blocks.iter().zip(&placement.blocks);
    let mixers = blocks
        .filter(|(_, place)| place.on_device())
        .flat_map(|(block, _)| block.branches.iter().map(|branch| &branch.mixer));
    let head = placement.head.on_device().then_some(&weights.spec.head.matrix);
    mixers.flat_map(of).chain(head)
}

fn of(mixer: &crate::spec::Mixer<crate::model::weights::Loaded>) -> Vec<&Matrix> {
    match mixer {
        Mixer::Attention(m) => m.linears().chain([&m.output]).map(|l| &l.matrix).collect(),
        Mixer::Dense(m) => m.up.linears().iter().chain([&m.down]).map(|l| &l.matrix).collect(),
        Mixer::Experts(m) => {
            m.bank.iter().take(1).flat_map(|e| e.gate_up.iter().chain([&e.down])).collect()
        }
        _ => Vec::new(),
    }
}

fn test(device: &Device, weights: &Weights, matrix: &Matrix) -> Result<()> {
    let (k, rows) = (matrix.k, matrix.rows.min(PANEL_ROWS));
    let panel = weights.panel(matrix, 0);
    let own = gpu::Matrix {
        weights: gpu::Weights::upload(device, panel)?,
        format: matrix.format,
        rows,
        k,
        at: 0,
        stride: panel.len(),
        factor: 1.0,
    };
    // Numbers of all signs and sizes that neither half floats nor bytes round: of each 32 the greatest is
    // 127 of their steps.
    let number =
        |i: usize| if i.is_multiple_of(32) { 127.0 } else { (i * 7919 % 255) as f32 - 127.0 };
    let x: Vec<f32> = (0..ROWS * k).map(|i| number(i % k) / 128.0).collect();
    let input = Floats::new(device, ROWS, k)?;
    device.write(&input, &x, k);
    let (io, vectors) = (Io::new(device)?, Vectors::default().upload(device)?);
    let out = Floats::new(device, ROWS, rows)?;
    for (class, count) in [(Class::One, 1), (Class::Many, ROWS)] {
        let mut builder = Builder::new(device, &io, class);
        builder.product(&Product {
            parts: &[Part { matrix: &own, bias: None, column: 0 }],
            input: &input,
            norm: None,
            pending: None,
            out: &out,
            kind: Kind::Store { scale: 1.0, act: None },
            count: Count::Pass,
            row_factor: None,
            vectors: &vectors,
        })?;
        let plan = builder.finish()?;
        let pass = Pass { rows: count, wanted: &[], runs: &[] };
        let mut wrong = None;
        device.run(&io, &[&plan], &pass, (&out, count, rows), |row, made| {
            wrong = wrong.take().or_else(|| differs(matrix, panel, &x[row * k..][..k], made));
        })?;
        if let Some(problem) = wrong {
            let name = device.info().name.clone();
            return Err(gpu::Error::Wrong { name, problem }.into());
        }
    }
    Ok(())
}

/// What differs from a product in double precision.
fn differs(matrix: &Matrix, panel: &[u8], x: &[f32], made: &[f32]) -> Option<String> {
    let mut row = vec![0.0; matrix.k];
    made.iter().enumerate().find_map(|(lane, &made)| {
        unpack_row(matrix.format, panel, lane, &mut row);
        let terms = row.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b));
        let (sum, size) =
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        let near = (f64::from(made) - sum).abs() <= TOLERANCE * size + 1e-30;
        (!near).then(|| format!("a product of {} is {made}, not {sum}", matrix.format))
    })
}
