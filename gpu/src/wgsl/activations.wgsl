fn sigmoid(x: f32) -> f32 {
    return 1.0 / (1.0 + exp(-x));
}

/// The nonlinearities in the order of `Nonlinearity`.
fn activation(kind: u32, x: f32) -> f32 {
    switch kind {
        case 0u: { return x * sigmoid(x); }
        case 1u: { return x * sigmoid(x * (1.595769 + 0.071354814 * x * x)); }
        case 2u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 3u: { return sigmoid(x); }
        case 4u: { let y = max(x, 0.0); return y * y; }
        default: { return x; }
    }
}

/// Abramowitz and Stegun 7.1.26.
fn erf(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.3275911 * abs(x));
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
        + 0.254829592) * t;
    return sign(x) * (1.0 - p * exp(-x * x));
}
