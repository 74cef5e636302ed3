//! The formats without codes: F32, F16, BF16.

use super::{Weight, prefetch};
use crate::ops::mul_add;
use crate::simd::Simd;

macro_rules! float_format {
    ($($name:ident: $bytes:literal bytes, $load:ident as $ty:ty;)*) => { $(
        #[doc = concat!("Kernels of ", stringify!($name), ".")]
        pub(crate) struct $name;

        impl Weight for $name {
            /// Even and odd k add up apart, to halve the chain of additions.
            #[inline(always)]
            unsafe fn panel<S: Simd, const MR: usize, const FUSED: bool>(
                s: S,
                panel: *const u8,
                units: usize,
                x: *const u8,
                x_stride: usize,
            ) -> [S::F; MR] {
                let mut even = [s.f_splat(0.0); MR];
                let mut odd = [s.f_splat(0.0); MR];
                let mut k = 0;
                while k + 2 <= units {
                    let at = panel.add(k * $bytes);
                    if MR <= 4 {
                        prefetch(s, at, 2 * $bytes);
                    }
                    let first = s.$load(at.cast::<$ty>());
                    let second = s.$load(at.add($bytes).cast::<$ty>());
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 4 * k).cast::<f32>();
                        even[m] = mul_add::<S, FUSED>(s, first, s.f_splat_at(x), even[m]);
                        odd[m] = mul_add::<S, FUSED>(s, second, s.f_splat_at(x.add(1)), odd[m]);
                    });
                    k += 2;
                }
                if k < units {
                    let last = s.$load(panel.add(k * $bytes).cast::<$ty>());
                    each!(m < MR => {
                        let x = x.add(m * x_stride + 4 * k).cast::<f32>();
                        even[m] = mul_add::<S, FUSED>(s, last, s.f_splat_at(x), even[m]);
                    });
                }
                each!(m < MR => { even[m] = s.f_add(even[m], odd[m]); });
                even
            }
        }
    )* };
}

float_format! {
    F32: 64 bytes, f_load as f32;
    F16: 32 bytes, f_load_f16 as u16;
    BF16: 32 bytes, f_load_bf16 as u16;
}
