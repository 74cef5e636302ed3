//! Random numbers that are functions of a seed and a position: there is no state to save.

/// A well mixed word of another one (the finaliser of SplitMix64).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The seed of a part, e.g. of one step, from that of the whole.
pub(crate) fn derive(seed: u64, part: u64) -> u64 {
    mix(mix(seed) ^ part)
}

/// A number between 0 and 1.
fn uniform(word: u64) -> f64 {
    (word >> 11) as f64 / (1u64 << 53) as f64
}

/// `len` numbers of mean 0 and standard deviation `std`.
pub(crate) fn normal(seed: u64, len: usize, std: f32) -> Vec<f32> {
    let number = |i: u64| {
        // Box and Muller; 1 - u is never 0.
        let (u, v) = (uniform(derive(seed, 2 * i)), uniform(derive(seed, 2 * i + 1)));
        let radius = (-2.0 * (1.0 - u).ln()).sqrt();
        (radius * (std::f64::consts::TAU * v).cos() * f64::from(std)) as f32
    };
    (0..len as u64).map(number).collect()
}

/// The numbers from 0 to `len`, in random order.
pub(crate) fn shuffled(seed: u64, len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    for i in (1..len).rev() {
        let j = derive(seed, i as u64) % (i as u64 + 1);
        order.swap(i, j as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers() {
        let values = normal(3, 100_000, 0.5);
        let mean = values.iter().sum::<f32>() / 1e5;
        let square = values.iter().map(|v| v * v).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.01 && (square.sqrt() - 0.5).abs() < 0.005, "{mean} {square}");
    }

    #[test]
    fn shuffling_keeps_every_number() {
        let mut order = shuffled(1, 1000);
        assert_ne!(order, shuffled(2, 1000));
        order.sort_unstable();
        assert!(order.iter().enumerate().all(|(i, &n)| i == n as usize));
    }
}
