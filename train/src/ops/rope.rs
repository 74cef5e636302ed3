//! Rotary positions, in Hugging Face's pairing: value `i` of a head turns with `i + head_dim / 2`.

/// Angles of every position.
#[derive(Debug)]
pub(crate) struct Rope {
    half: usize,
    /// `[positions, half]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    pub(crate) fn new(positions: usize, head_dim: usize, theta: f32) -> Self {
        let half = head_dim / 2;
        let angle = |at: usize| {
            let (position, pair) = (at / half, at % half);
            let exponent = -2.0 * pair as f64 / head_dim as f64;
            position as f64 * f64::from(theta).powf(exponent)
        };
        let angles = || (0..positions * half).map(angle);
        Self {
            half,
            cos: angles().map(|a| a.cos() as f32).collect(),
            sin: angles().map(|a| a.sin() as f32).collect(),
        }
    }

    /// Turns the heads of one row that stands at `position`.
    pub(crate) fn turn(&self, row: &mut [f32], position: usize) {
        self.rotate(row, position, 1.0);
    }

    /// Turns them back: the gradient of [`turn`](Self::turn).
    pub(crate) fn turn_back(&self, row: &mut [f32], position: usize) {
        self.rotate(row, position, -1.0);
    }

    fn rotate(&self, row: &mut [f32], position: usize, sign: f32) {
        let cos = &self.cos[position * self.half..][..self.half];
        let sin = &self.sin[position * self.half..][..self.half];
        for head in row.chunks_exact_mut(2 * self.half) {
            let (a, b) = head.split_at_mut(self.half);
            for (((a, b), &c), &s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let s = s * sign;
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}
