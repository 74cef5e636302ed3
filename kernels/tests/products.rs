//! Every product, on every instruction set of this machine, against a naive reference in `f64`
//! and, bit by bit, against the portable tier.

use goldcrest_kernels::{
    Activation, Format, Isa, Kernels, Place, Rows, Tile, pack_panel, unpack_row,
};
use half::f16;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A deterministic source of test data (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// What the scales of a test's weights are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Scales {
    Usual,
    Negative,
    Subnormal,
    Special,
}

impl Scales {
    fn draw(self, random: &mut Random) -> f16 {
        let v = random.float() * 0.05;
        match self {
            Self::Usual => f16::from_f32(v.abs() + 1e-3),
            Self::Negative => f16::from_f32(-v.abs() - 1e-3),
            Self::Subnormal => f16::from_bits((random.next() & 0x83ff) as u16),
            Self::Special => {
                [f16::INFINITY, f16::NEG_INFINITY, f16::NAN, f16::MAX, f16::ZERO, f16::NEG_ZERO]
                    [(random.next() % 6) as usize]
            }
        }
    }
}

/// Sets every half float that scales a block; bounds scales of another kind.
fn put_scales(format: Format, block: &mut [u8], mut scale: impl FnMut() -> f16) {
    match format {
        Format::IQ1_M => {
            let bits = scale().to_bits();
            for (i, word) in block[48..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                word[1] = word[1] & 15 | ((bits >> (4 * i)) as u8 & 15) << 4;
            }
        }
        Format::MXFP4 => block[0] = (scale().to_f32().to_bits() >> 23) as u8,
        Format::NVFP4 => block[..4].iter_mut().for_each(|scale| *scale &= 0x3f),
        _ => {}
    }
    for &at in format.scale_offsets() {
        block[at..at + 2].copy_from_slice(&scale().to_le_bytes());
    }
}

/// A row of random codes in the file's layout, with the scales asked for.
fn random_row(format: Format, k: usize, scales: Scales, random: &mut Random) -> Vec<u8> {
    let mut row = vec![0u8; format.row_bytes(k).unwrap()];
    for block in row.chunks_exact_mut(format.block_bytes()) {
        for b in block.iter_mut() {
            *b = random.next() as u8;
        }
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes());
            }
            _ => put_scales(format, block, || scales.draw(random)),
        }
    }
    row
}

/// The values that a row of quantised activations stands for.
fn activation_values(kind: Activation, k: usize, row: &[u8]) -> Vec<f32> {
    let float = |at: usize| f32::from_le_bytes(row[at..at + 4].try_into().unwrap());
    (0..k)
        .map(|i| match kind {
            Activation::F32 => float(4 * i),
            Activation::Q8 => {
                let record = i / 64 * 104;
                f32::from(row[record + i % 64] as i8) * float(record + 64 + i % 64 / 32 * 4)
            }
            Activation::Q8K => {
                let record = i / 256 * 320;
                f32::from(row[record + i % 256] as i8) * float(record + 304)
            }
        })
        .collect()
}

struct Case {
    format: Format,
    k: usize,
    weight_rows: usize,
    weights: Vec<Vec<u8>>,
    panels: Vec<u8>,
    x: Vec<Vec<f32>>,
}

impl Case {
    fn new(
        format: Format,
        k: usize,
        weight_rows: usize,
        m: usize,
        scales: Scales,
        seed: u64,
    ) -> Self {
        let mut random = Random(seed);
        let weights: Vec<_> =
            (0..weight_rows).map(|_| random_row(format, k, scales, &mut random)).collect();
        let panel_bytes = format.panel_bytes(k);
        let mut panels = vec![0xa5u8; weight_rows.div_ceil(16) * panel_bytes];
        for (rows, panel) in weights.chunks(16).zip(panels.chunks_exact_mut(panel_bytes)) {
            pack_panel(format, k, &rows.concat(), panel);
        }
        let x = (0..m).map(|_| (0..k).map(|_| random.float() * 3.0).collect()).collect();
        Self { format, k, weight_rows, weights, panels, x }
    }

    fn quantize(&self, kernels: &Kernels, from: usize, m: usize) -> Vec<u8> {
        let kind = self.format.activation();
        let mut rows = vec![0u8; m * kind.row_bytes(self.k)];
        kernels.quantize_rows(kind, self.k, &self.x[from..from + m].concat(), &mut rows);
        rows
    }

    /// Every row as a group of its own.
    fn quantize_alone(&self) -> Vec<u8> {
        let kind = self.format.activation();
        let portable = Kernels::for_isa(Isa::Portable).unwrap();
        let mut rows = vec![0u8; self.x.len() * kind.row_bytes(self.k)];
        for (x, row) in self.x.iter().zip(rows.chunks_exact_mut(kind.row_bytes(self.k))) {
            portable.quantize_row(kind, x, row, Place::ALONE);
        }
        rows
    }

    /// Rows `from .. from + m` of the product.
    fn run(&self, kernels: &Kernels, from: usize, m: usize) -> Vec<f32> {
        let kind = self.format.activation();
        let rows = self.quantize(kernels, from, m);
        let n = self.weight_rows;
        let mut out = vec![f32::NAN; m * n];
        kernels.matmul(
            self.format,
            self.k,
            &self.panels,
            Rows::new(kind, self.k, &rows, m, kernels.group()),
            Tile::new(&mut out, n, m, n),
        );
        out
    }

    /// The product in `f64`, and the sum of magnitudes that rounding errors scale with.
    fn reference(&self) -> Vec<(f64, f64)> {
        let kind = self.format.activation();
        let stride = kind.row_bytes(self.k);
        let rows = self.quantize_alone();
        let mut weights = vec![0.0f32; self.k];
        let mut out = vec![(0.0, 0.0); self.x.len() * self.weight_rows];
        for (n, row) in self.weights.iter().enumerate() {
            self.format.dequantize(row, &mut weights);
            for (m, x) in rows.chunks_exact(stride).enumerate() {
                let x = activation_values(kind, self.k, x);
                let terms = weights.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let sum = terms.clone().sum();
                // Offsets and minima cancel against codes, so their size counts as well.
                let size = terms.map(f64::abs).sum::<f64>();
                out[m * self.weight_rows + n] = (sum, size);
            }
        }
        out
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

fn k_of(format: Format, units: usize) -> usize {
    match format.block_len() {
        1 => units * 7 + 1,
        len => units * len,
    }
}

fn check(format: Format, units: usize, n: usize, m: usize, scales: Scales, seed: u64) {
    let case = Case::new(format, k_of(format, units), n, m, scales, seed);
    let portable = case.run(Kernels::deterministic(Isa::Portable).unwrap(), 0, m);
    let reference = case.reference();
    if matches!(scales, Scales::Usual | Scales::Negative) {
        for (i, (&got, &(want, size))) in portable.iter().zip(&reference).enumerate() {
            let tolerance = 2e-5 * size + 1e-6 + 0.01 * size / case.k as f64;
            assert!(
                (f64::from(got) - want).abs() <= tolerance,
                "{format} K {} element {i}: {got} instead of {want}",
                case.k
            );
        }
    }
    for isa in Isa::supported() {
        let kernels = Kernels::deterministic(isa).unwrap();
        let got = case.run(kernels, 0, m);
        assert!(same_bits(&got, &portable), "{isa}-matmul-{format}, {units} units, {n} x {m}");
        for row in 0..m {
            let alone = case.run(kernels, row, 1);
            let together = &got[row * n..][..n];
            assert!(same_bits(&alone, together), "{isa}-matvec-{format}, row {row} of {m}");
        }
        let fused = case.run(Kernels::for_isa(isa).unwrap(), 0, m);
        for (i, ((a, b), (_, size))) in fused.iter().zip(&portable).zip(&reference).enumerate() {
            let near = f64::from((a - b).abs()) <= 2e-6 * size + 1e-6;
            assert!(near || !b.is_finite() || a == b, "{isa} fused {format} {i}: {a}, {b}");
        }
    }
}

#[test]
fn products_agree_on_every_tier() {
    let mut runner = TestRunner::new(Config { cases: 96, ..Config::default() });
    let formats = prop::sample::select(Format::ALL);
    let scales = prop::sample::select(&[
        Scales::Usual,
        Scales::Negative,
        Scales::Subnormal,
        Scales::Special,
    ]);
    let strategy = (formats, 1usize..9, 1usize..50, 1usize..18, scales, any::<u64>());
    runner
        .run(&strategy, |(format, units, n, m, scales, seed)| {
            check(format, units, n, m, scales, seed);
            Ok(())
        })
        .unwrap();
}

#[test]
fn every_format_and_row_count_once() {
    for &format in Format::ALL {
        for m in [1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 25] {
            check(format, 3, 17, m, Scales::Usual, m as u64);
        }
    }
}

/// Little work, for interpreters.
#[test]
fn one_unit_of_every_format() {
    for &format in Format::ALL {
        check(format, 1, 3, 3, Scales::Usual, 5);
    }
}

/// Rows that go through the panels in several chunks of K. (Emulators skip what is called `sizes_`:
/// minutes there.)
#[test]
fn sizes_of_many_rows_and_units() {
    for &format in Format::ALL {
        check(format, 40, 17, 301, Scales::Usual, 9);
    }
}

#[test]
fn extreme_codes_do_not_overflow() {
    for &format in Format::ALL.iter().filter(|f| f.block_len() > 1) {
        let k = 512;
        for byte in [0x00u8, 0xff, 0x80, 0x7f, 0xf0, 0x0f] {
            for sign in [1.0f32, -1.0] {
                let mut case = Case::new(format, k, 16, 3, Scales::Usual, 7);
                for row in &mut case.weights {
                    for block in row.chunks_exact_mut(format.block_bytes()) {
                        block.fill(byte);
                        put_scales(format, block, || f16::from_f32(0.5));
                    }
                }
                pack_panel(format, k, &case.weights.concat(), &mut case.panels);
                case.x.iter_mut().for_each(|x| x.fill(sign));
                let want = case.reference();
                for isa in Isa::supported() {
                    let got = case.run(Kernels::for_isa(isa).unwrap(), 0, 3);
                    for (got, (want, size)) in got.iter().zip(&want) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error <= 1e-4 * size, "{isa} {format} {byte:#x}: {got}, {want}");
                    }
                }
            }
        }
    }
}

/// From 2^-128, which products take for zero, to 2^126.
#[test]
fn scales_of_every_exponent() {
    for e in 0..=254u8 {
        let mut case = Case::new(Format::MXFP4, 64, 16, 3, Scales::Usual, e.into());
        for row in &mut case.weights {
            row.chunks_exact_mut(17).for_each(|block| block[0] = e);
        }
        pack_panel(Format::MXFP4, 64, &case.weights.concat(), &mut case.panels);
        let portable = case.run(Kernels::for_isa(Isa::Portable).unwrap(), 0, 3);
        for isa in Isa::supported() {
            let got = case.run(Kernels::for_isa(isa).unwrap(), 0, 3);
            assert!(same_bits(&got, &portable), "{isa} exponent {e}");
        }
        for (got, (want, size)) in portable.iter().zip(case.reference()) {
            let error = (f64::from(*got) - want).abs();
            // Before the scale of the activations counts.
            let overflows = size > f64::from(f32::MAX) / 1e3;
            assert!(overflows || error <= 1e-6 * size + 1e-35, "{e}: {got}, {want}");
        }
    }
}

#[test]
fn a_packed_row_reads_back_as_it_was() {
    for &format in Format::ALL {
        let case = Case::new(format, k_of(format, 5), 19, 1, Scales::Usual, 3);
        let (mut want, mut got) = (vec![0.0; case.k], vec![0.0; case.k]);
        let panels: Vec<_> = case.panels.chunks_exact(format.panel_bytes(case.k)).collect();
        for (i, row) in case.weights.iter().enumerate() {
            format.dequantize(row, &mut want);
            unpack_row(format, panels[i / 16], i % 16, &mut got);
            assert_eq!(want, got, "{format} row {i}");
        }
    }
}

#[test]
fn no_format_grows_by_more_than_three_percent() {
    for &format in Format::ALL {
        let k = 1536;
        let file = 16 * format.row_bytes(k).unwrap();
        assert!(format.panel_bytes(k) as f64 <= 1.03 * file as f64, "{format}");
    }
}

#[test]
fn rows_of_a_group_lie_record_by_record() {
    let mut random = Random(5);
    let (k, rows) = (700, 29);
    let x: Vec<f32> = (0..k * rows).map(|_| random.float()).collect();
    for isa in Isa::supported() {
        let kernels = Kernels::for_isa(isa).unwrap();
        for (kind, record) in [(Activation::Q8, 104), (Activation::Q8K, 320)] {
            let stride = kind.row_bytes(k);
            let (mut grouped, mut alone) = (vec![0u8; rows * stride], vec![0u8; stride]);
            kernels.quantize_rows(kind, k, &x, &mut grouped);
            for (i, x) in x.chunks_exact(k).enumerate() {
                kernels.quantize_row(kind, x, &mut alone, Place::ALONE);
                let (first, row) = (i / kernels.group() * kernels.group(), i % kernels.group());
                let group = kernels.group().min(rows - first);
                let got = grouped[first * stride..].chunks_exact(record).skip(row).step_by(group);
                let used = k.div_ceil(if kind == Activation::Q8 { 64 } else { 256 });
                for (got, want) in got.zip(alone.chunks_exact(record)).take(used) {
                    assert_eq!(got, want, "{isa} {kind:?} row {i}");
                }
            }
        }
    }
}

#[test]
fn activations_have_the_same_bits_on_every_tier() {
    let mut random = Random(11);
    for k in [1, 31, 64, 100, 256, 700] {
        let mut x: Vec<f32> = (0..k).map(|_| random.float() * 1e3).collect();
        for special in [0.0, f32::NAN, f32::INFINITY, 1e-42] {
            x[k / 2] = special;
            for &kind in Activation::ALL {
                let mut want = vec![0u8; kind.row_bytes(k)];
                Kernels::for_isa(Isa::Portable).unwrap().quantize_row(
                    kind,
                    &x,
                    &mut want,
                    Place::ALONE,
                );
                for isa in Isa::supported() {
                    let mut got = vec![0u8; kind.row_bytes(k)];
                    Kernels::for_isa(isa).unwrap().quantize_row(kind, &x, &mut got, Place::ALONE);
                    assert_eq!(got, want, "{isa} {kind:?} K {k} with {special}");
                }
            }
        }
    }
}
