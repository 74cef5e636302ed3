//! Every product kernel of this machine, in cache and in one thread: `cargo bench --bench products`.
//!
//! Memory and threads are left out on purpose; `goldcrest kernels` has the former, `goldcrest
//! bench` both. A name after `--` filters: `cargo bench --bench products -- avx2-matvec-q4_k`.

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use goldcrest::load::GgmlType;
use goldcrest::synthetic::random_rows;
use goldcrest::{Format, Isa};
use goldcrest_kernels::{Kernels, PANEL_ROWS, Rows, Tile, pack_panel};

const K: usize = 2048;
/// Panels that stay in a second-level cache.
const BYTES: usize = 256 << 10;

/// A kernel under its name.
struct Kernel {
    isa: Isa,
    format: Format,
    op: &'static str,
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.isa, self.op, self.format.name().to_lowercase())
    }
}

fn main() {
    divan::main();
}

fn kernels(op: &'static str) -> Vec<Kernel> {
    let of = |isa| Format::ALL.iter().map(move |&format| Kernel { isa, format, op });
    Isa::supported().flat_map(of).collect()
}

/// Items are multiply-adds.
#[divan::bench(args = kernels("matvec"))]
fn matvec(bencher: Bencher<'_, '_>, kernel: &Kernel) {
    product(bencher, kernel, 1);
}

#[divan::bench(args = kernels("matmul"), consts = [4, 16, 64])]
fn matmul<const ROWS: usize>(bencher: Bencher<'_, '_>, kernel: &Kernel) {
    product(bencher, kernel, ROWS);
}

fn product(bencher: Bencher<'_, '_>, kernel: &Kernel, m: usize) {
    let Kernel { isa, format, .. } = *kernel;
    let kernels = Kernels::for_isa(isa).expect("supported ones are listed");
    let panel = format.panel_bytes(K);
    let mut panels = vec![0u8; (BYTES / panel).max(1) * panel];
    let n = panels.len() / panel * PANEL_ROWS;
    let ty = GgmlType::ALL.iter().copied().find(|ty| ty.name() == format.name());
    let rows = random_rows(ty.expect("formats are GGML's"), n, K, 1);
    let row = format.row_bytes(K).expect("whole blocks");
    for (rows, out) in rows.chunks_exact(row * PANEL_ROWS).zip(panels.chunks_exact_mut(panel)) {
        pack_panel(format, K, rows, out);
    }
    let kind = format.activation();
    let mut x = vec![0u8; m * kind.row_bytes(K)];
    let values: Vec<f32> = (0..m * K).map(|k| (k * 31 % 64) as f32 - 31.5).collect();
    kernels.quantize_rows(kind, K, &values, &mut x);
    let mut out = vec![0.0f32; m * n];
    bencher.counter(ItemsCount::new(m * n * K)).counter(BytesCount::new(panels.len())).bench_local(
        || {
            let tile = Tile::new(&mut out, n, m, n);
            let rows = Rows::new(kind, K, &x, m, kernels.group());
            kernels.matmul(format, K, divan::black_box(&panels), rows, tile);
        },
    );
}
