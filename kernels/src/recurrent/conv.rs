//! The causal convolution over a few tokens, every channel by itself.

use crate::math;
use crate::ops::{load, store};
use crate::simd::{LANES, Simd};

/// `out[c] = sum over j of weights[j][c] * window[j][c]`, and the bias; then SiLU where there is
/// one. The window is the last inputs, oldest first, this token's last.
///
/// # Panics
/// If the window is empty or a length does not fit.
///
/// # Safety
/// As for every method of [`Simd`].
#[inline(always)]
pub(crate) unsafe fn short_conv<S: Simd>(
    s: S,
    window: &[&[f32]],
    weights: &[&[f32]],
    bias: Option<&[f32]>,
    silu: bool,
    out: &mut [f32],
) {
    let n = out.len();
    let taps = window.len();
    assert!(taps > 0 && weights.len() == taps, "taps of window and weights");
    let mut j = 0;
    while j < taps {
        assert!(window[j].len() == n && weights[j].len() == n, "channels of window and weights");
        j += 1;
    }
    assert!(bias.is_none_or(|bias| bias.len() == n), "channels of bias");
    let mut i = 0;
    while i < n {
        let left = n - i;
        // SAFETY: `i < n`, which all of the slices have; `j < taps`.
        unsafe {
            let mut sum = s.f_splat(0.0);
            let mut j = 0;
            while j < taps {
                let x = load(s, window.get_unchecked(j).as_ptr().add(i), left, 0.0);
                let w = load(s, weights.get_unchecked(j).as_ptr().add(i), left, 0.0);
                sum = s.f_add(sum, s.f_mul(x, w));
                j += 1;
            }
            if let Some(bias) = bias {
                sum = s.f_add(sum, load(s, bias.as_ptr().add(i), left, 0.0));
            }
            store(s, out.as_mut_ptr().add(i), left, if silu { math::silu(s, sum) } else { sum });
        }
        i += LANES;
    }
}
