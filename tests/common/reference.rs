//! Reference values in safetensors and JSON files.

use std::path::Path;

use safetensors::SafeTensors;

/// The tensors of a reference file.
pub struct Reference(Vec<u8>);

impl Reference {
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        Self(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.bytes(name).as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect()
    }
}

pub fn json(path: impl AsRef<Path>) -> serde_json::Value {
    let path = path.as_ref();
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let nan = a.iter().any(|x| x.is_nan());
    assert!(!nan, "NaN among the logits");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Root mean square of the differences, as a share of the reference's standard deviation.
pub fn relative_rmse(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let n = reference.len() as f64;
    let mean = reference.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = |x: f64| x * x;
    let variance = reference.iter().map(|&x| square(f64::from(x) - mean)).sum::<f64>() / n;
    let error = ours.iter().zip(reference).map(|(&a, &b)| square(f64::from(a) - f64::from(b)));
    (error.sum::<f64>() / n / variance).sqrt()
}

/// What each token of `ids` from `first` on costs, given the logits after those before it: the negative
/// logarithms of their probabilities, in nats. `logits` has a row for each of `ids`.
pub fn losses(logits: &[f32], ids: &[u32], first: usize) -> Vec<f64> {
    let vocab = logits.len() / ids.len();
    assert_eq!(logits.len(), vocab * ids.len());
    let loss = |(row, &id): (&[f32], &u32)| {
        let max = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() + f64::from(max) - f64::from(row[id as usize])
    };
    logits.chunks_exact(vocab).skip(first - 1).zip(&ids[first..]).map(loss).collect()
}

/// Mean negative log-likelihood of `ids` after the first.
pub fn mean_loss(logits: &[f32], ids: &[u32]) -> f64 {
    losses(logits, ids, 1).iter().sum::<f64>() / (ids.len() - 1) as f64
}
