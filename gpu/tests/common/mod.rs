//! A device to test on, and numbers.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use goldcrest_gpu::{Device, Floats, Matrix, Weights};
use goldcrest_kernels::{Format, PANEL_ROWS, pack_panel, unpack_row};
use half::f16;

/// The device that `GOLDCREST_GPU` names, else a software one. Where there is none, the test says
/// that it has not run; with `GOLDCREST_REQUIRE_GPU` that is a failure.
#[allow(clippy::print_stderr)]
pub fn device() -> Option<Device> {
    let named = std::env::var("GOLDCREST_GPU").ok();
    let device = match &named {
        Some(name) => Device::open(Some(name)),
        None => Device::open(Some("llvmpipe")).or_else(|_| Device::open(Some("SwiftShader"))),
    };
    match device {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("GOLDCREST_REQUIRE_GPU").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("NOT RUN: {error}");
            None
        }
    }
}

/// A linear congruential generator (Knuth's constants).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// Within -1 to 1.
    pub fn float(&mut self) -> f32 {
        (self.next() as f32 / (1u64 << 30) as f32) - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A row of random codes under ordinary scales.
fn random_row(format: Format, k: usize, random: &mut Random) -> Vec<u8> {
    let mut row = vec![0u8; format.row_bytes(k).unwrap()];
    for block in row.chunks_exact_mut(format.block_bytes()) {
        block.iter_mut().for_each(|b| *b = random.next() as u8);
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::F16 => block.copy_from_slice(&f16::from_f32(random.float()).to_le_bytes()),
            Format::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes());
            }
            Format::MXFP4 => block[0] = 120 + (random.next() % 8) as u8,
            _ => {
                for &at in format.scale_offsets() {
                    // Every other one is subnormal, as those of K-quants are.
                    let least = if random.next().is_multiple_of(2) { 2e-5 } else { 2e-2 };
                    let scale = f16::from_f32(random.float() * least);
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }
    row
}

/// Panels of random rows, and their values.
pub fn panels(format: Format, rows: usize, k: usize, random: &mut Random) -> (Vec<u8>, Vec<f32>) {
    let bytes = format.panel_bytes(k);
    let mut all = vec![0; rows.div_ceil(PANEL_ROWS) * bytes];
    let mut values = vec![0.0; rows * k];
    for (p, panel) in all.chunks_exact_mut(bytes).enumerate() {
        let count = PANEL_ROWS.min(rows - p * PANEL_ROWS);
        let stack: Vec<u8> = (0..count).flat_map(|_| random_row(format, k, random)).collect();
        pack_panel(format, k, &stack, panel);
        for lane in 0..count {
            let row = p * PANEL_ROWS + lane;
            unpack_row(format, panel, lane, &mut values[row * k..][..k]);
        }
    }
    (all, values)
}

/// A matrix that lies alone in its buffer.
pub fn matrix(device: &Device, format: Format, rows: usize, k: usize, panels: &[u8]) -> Matrix {
    let weights = Weights::upload(device, panels).unwrap();
    Matrix { weights, format, rows, k, at: 0, stride: format.panel_bytes(k), factor: 1.0 }
}

pub fn floats(device: &Device, rows: usize, width: usize, values: &[f32]) -> Floats {
    let floats = Floats::new(device, rows, width).unwrap();
    device.write(&floats, values, width);
    floats
}

/// Compares with double precision: `want` has values and the sums of their magnitudes.
#[track_caller]
pub fn near(what: &str, got: &[f32], want: &[(f64, f64)]) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, (want, size))) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*got) - want).abs();
        assert!(error <= 4e-6 * size + 1e-12, "{what}, element {i}: {got}, not {want} ({size})");
    }
}
