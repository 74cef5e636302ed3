//! Filters over the likeliest tokens, without sorting the whole vocabulary.

use super::SamplingParams;

/// Tokens that are still in the draw, likeliest first when a filter is on.
pub(super) struct Candidates {
    list: Vec<(u32, f32)>,
}

/// How many tokens `top_p` and `min_p` look at first when `top_k` does not say.
const FIRST_LOOK: usize = 256;

impl Candidates {
    /// Room for a vocabulary of `vocab`.
    pub(super) fn new(vocab: usize) -> Self {
        Self { list: Vec::with_capacity(vocab) }
    }

    /// Fills the list with what the filters leave of `logits`, whose largest is `max`. `mass` is
    /// the sum of `exp(logit - max)` over all tokens; `None` takes it over the `top_k`.
    pub(super) fn select(
        &mut self,
        logits: &[f32],
        max: f32,
        mass: Option<f64>,
        params: &SamplingParams,
    ) {
        let filtered = params.top_p < 1.0 || params.min_p > 0.0;
        if params.top_k == 0 && !filtered {
            self.list.clear();
            self.list.extend((0..).zip(logits.iter().copied()));
            return;
        }
        let mut look = if params.top_k == 0 { FIRST_LOOK } else { params.top_k };
        loop {
            self.likeliest(logits, look);
            let kept = self.kept(max, mass, params);
            // A cut before the end of the list is final: what was not looked at is less likely.
            if kept < self.list.len() || look >= logits.len() || params.top_k != 0 {
                self.list.truncate(kept);
                return;
            }
            look *= 8;
        }
    }

    /// The `count` largest logits, largest first, the lower id first among equals.
    fn likeliest(&mut self, logits: &[f32], count: usize) {
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let count = count.min(logits.len());
        self.list.clear();
        let mut floor = f32::NEG_INFINITY;
        for (id, &logit) in (0..).zip(logits) {
            // Only what beats the worst of the best so far comes in; later ids lose ties.
            if logit > floor || self.list.len() < count {
                self.list.push((id, logit));
            }
            if self.list.len() >= 2 * count + 64 {
                self.list.select_nth_unstable_by(count - 1, order);
                self.list.truncate(count);
                floor = self.list[count - 1].1;
            }
        }
        self.list.sort_unstable_by(order);
        self.list.truncate(count);
    }

    /// How many of the sorted list `top_p` and `min_p` keep: at least one.
    fn kept(&self, max: f32, mass: Option<f64>, params: &SamplingParams) -> usize {
        let weight = |logit: f32| exp(f64::from(logit) - f64::from(max));
        let mass = mass.unwrap_or_else(|| self.list.iter().map(|&(_, l)| weight(l)).sum());
        let (top_p, min_p) = (f64::from(params.top_p) * mass, f64::from(params.min_p));
        let mut sum = 0.0;
        for (i, &(_, logit)) in self.list.iter().enumerate() {
            let weight = weight(logit);
            if i > 0 && (weight < min_p || (params.top_p < 1.0 && sum >= top_p)) {
                return i;
            }
            sum += weight;
        }
        self.list.len()
    }

    /// The token that the number `unit` of `0..1` falls on.
    pub(super) fn draw(&self, max: f32, temperature: f32, unit: f64) -> u32 {
        let weight = |logit: f32| exp((f64::from(logit) - f64::from(max)) / f64::from(temperature));
        let mass: f64 = self.list.iter().map(|&(_, logit)| weight(logit)).sum();
        let mut left = unit * mass;
        for &(id, logit) in &self.list {
            left -= weight(logit);
            if left < 0.0 {
                return id;
            }
        }
        // Rounding can leave a crumb: the likeliest takes it.
        let likeliest = self.list.iter().find(|&&(_, logit)| logit == max);
        likeliest.map_or(0, |&(id, _)| id)
    }
}

/// `e^x` for x up to 0, the same bits on every machine: the system's may differ in the last one.
pub(super) fn exp(x: f64) -> f64 {
    const LN2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x < -700.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round();
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut sum = 1.0;
    for i in (1..=14).rev() {
        sum = 1.0 + sum * r / f64::from(i);
    }
    sum * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// Natural logarithm of a positive normal number, the same bits on every machine.
pub(super) fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    // ln(m) = 2 artanh(s), with |s| up to 0.172.
    let s = (m - 1.0) / (m + 1.0);
    let mut sum = 0.0;
    for i in (0..13).rev() {
        sum = sum * s * s + 1.0 / f64::from(2 * i + 1);
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_are_accurate() {
        for i in 0..4000 {
            let x = -f64::from(i) * 0.17;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-14, "exp({x})");
        }
        for i in 1..4000 {
            let x = f64::from(i) * 0.0137;
            assert!((ln(x) - x.ln()).abs() < 1e-14, "ln({x})");
        }
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    }

    fn select(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let mass = logits.iter().map(|&l| exp(f64::from(l - max))).sum();
        let mut candidates = Candidates::new(logits.len());
        candidates.select(logits, max, (params.top_k == 0).then_some(mass), params);
        candidates.list.iter().map(|c| c.0).collect()
    }

    #[test]
    fn filters_keep_what_they_say() {
        let off = SamplingParams::default().top_k(0).top_p(1.0).min_p(0.0);
        // Probabilities 0.1, 0.4, 0.2, 0.3.
        let logits: Vec<f32> = [0.1f32, 0.4, 0.2, 0.3].iter().map(|p| p.ln()).collect();
        assert_eq!(select(&logits, &off), [0, 1, 2, 3]);
        assert_eq!(select(&logits, &off.clone().top_k(2)), [1, 3]);
        assert_eq!(select(&logits, &off.clone().top_p(0.71)), [1, 3, 2]);
        assert_eq!(select(&logits, &off.clone().top_p(0.01)), [1]);
        assert_eq!(select(&logits, &off.clone().min_p(0.6)), [1, 3]);
        // top_p counts within what top_k left: 0.4 / 0.7 passes 0.57.
        let both = off.top_k(2).top_p(0.57);
        assert_eq!(select(&logits, &both), [1]);
    }

    #[test]
    fn an_excluded_token_is_not_drawn() {
        let off = SamplingParams::default().top_k(0).top_p(1.0).min_p(0.0);
        let mut candidates = Candidates::new(3);
        candidates.select(&[f32::NEG_INFINITY, 0.5, 0.0], 0.5, Some(1.0), &off);
        // What rounding leaves of a draw falls behind the last token.
        assert_eq!([0.0, 0.99, 1.0].map(|unit| candidates.draw(0.5, 1.0, unit)), [1, 2, 1]);
    }

    #[test]
    fn selection_agrees_with_a_sort() {
        let mut random = super::super::random::Random::new(3);
        let logits: Vec<f32> = (0..5000).map(|_| (random.unit() * 40.0).floor() as f32).collect();
        let mut sorted: Vec<u32> = (0..5000).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        for top_k in [1, 2, 40, 700, 5000, 9000] {
            let params = SamplingParams::default().top_k(top_k).top_p(1.0).min_p(0.0);
            assert_eq!(select(&logits, &params), sorted[..top_k.min(5000)]);
        }
        let wide = SamplingParams::default().top_k(0).top_p(0.999).min_p(0.0);
        let kept = select(&logits, &wide);
        assert!(kept.len() > 128 && kept == sorted[..kept.len()]);
    }
}
