//! Feed-forward layers in which few gates count.

use super::keys::Keys;
use super::rows::Row;
use crate::error::Result;
use crate::load::{Array, Object, Value};

/// How many standard deviations above its row's mean a gate of each layer must be; `None` where all
/// count.
pub(super) fn deviations(keys: Keys, row: &Row, n_layers: usize) -> Result<Vec<Option<f32>>> {
    if !row.sparse_gates {
        return Ok(vec![None; n_layers]);
    }
    match keys {
        Keys::Json(json) => from_shares(json, n_layers),
        Keys::Gguf { metadata, arch } => {
            let key = format!("{arch}.activation_sparsity_scale");
            let Some(value) = metadata.get(&key) else { return Ok(usual(n_layers)) };
            let list = match value {
                Value::Array(Array::F32(list)) if list.len() == n_layers => list,
                _ => return Err(wrong(&key, n_layers)),
            };
            // Dense layers are at minus infinity.
            if list.iter().any(|x| x.is_nan() || *x == f32::INFINITY) {
                return Err(wrong(&key, n_layers));
            }
            Ok(list.iter().map(|&x| (x != f32::NEG_INFINITY).then_some(x)).collect())
        }
    }
}

fn wrong(key: &str, n_layers: usize) -> crate::error::Error {
    crate::error::config_error(format!("key \"{key}\" is not a list of {n_layers} deviations"))
}

/// A config.json has the share of gates that do not count: of each layer, or of all.
fn from_shares(json: Object, n_layers: usize) -> Result<Vec<Option<f32>>> {
    const KEY: &str = "activation_sparsity_pattern";
    let Some(value) = json.get(KEY) else { return Ok(usual(n_layers)) };
    let shares = match value.as_array() {
        Some(list) => list.iter().map(serde_json::Value::as_f64).collect::<Option<Vec<_>>>(),
        None => value.as_f64().map(|share| vec![share; n_layers]),
    };
    let shares = shares.filter(|shares| shares.len() == n_layers);
    let shares = shares.filter(|shares| shares.iter().all(|share| (0.0..1.0).contains(share)));
    let shares = shares.ok_or_else(|| {
        json.error(KEY, format_args!("is {value}, not a share for each of {n_layers} layers"))
    })?;
    Ok(shares.into_iter().map(of_share).collect())
}

/// Without a key, the first ten layers of a deep model are sparse.
fn usual(n_layers: usize) -> Vec<Option<f32>> {
    let sparse = if n_layers > 10 { 10 } else { 0 };
    (0..n_layers).map(|layer| of_share(if layer < sparse { 0.95 } else { 0.0 })).collect()
}

/// The deviations below which there is such a share of a normal distribution.
fn of_share(share: f64) -> Option<f32> {
    if share == 0.0 {
        return None;
    }
    // The distribution rises from end to end.
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        let below = 0.5 * libm::erfc(-middle * std::f64::consts::FRAC_1_SQRT_2);
        if below < share {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(low as f32)
}

#[cfg(test)]
mod tests {
    use super::of_share;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (share, want) in
            [(0.5, 0.0), (0.95, 1.644_853_6), (0.75, 0.674_489_75), (0.01, -2.326_348)]
        {
            let got = of_share(share).unwrap();
            assert!((got - want).abs() < 1e-6, "{share}: {got}, not {want}");
        }
        assert_eq!(of_share(0.0), None);
    }
}
