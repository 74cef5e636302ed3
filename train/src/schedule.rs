//! The learning rate.

/// A linear warm-up and half a cosine down to a share of the peak.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) peak: f64,
    pub(crate) warmup: u64,
    pub(crate) steps: u64,
    /// Share of the peak at the end.
    pub(crate) floor: f64,
}

impl Schedule {
    /// The rate of a step, the first being 0.
    pub(crate) fn rate(&self, step: u64) -> f32 {
        if step < self.warmup {
            return (self.peak * (step + 1) as f64 / self.warmup as f64) as f32;
        }
        let whole = (self.steps - self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / whole).min(1.0);
        let cosine = 0.5 + 0.5 * (std::f64::consts::PI * done).cos();
        (self.peak * (self.floor + (1.0 - self.floor) * cosine)) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_and_down() {
        let schedule = Schedule { peak: 1.0, warmup: 10, steps: 110, floor: 0.1 };
        assert_eq!(schedule.rate(0), 0.1);
        assert_eq!(schedule.rate(10), 1.0);
        assert!((schedule.rate(60) - 0.55).abs() < 1e-6);
        assert!((schedule.rate(110) - 0.1).abs() < 1e-6);
    }
}
