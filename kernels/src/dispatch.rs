//! The table of entry points of each instruction set, and the safe interface over it.

use std::marker::PhantomData;

use crate::PANEL_ROWS;
use crate::activation::{self, Activation, Place, Rows};
use crate::attention::{self, Attend, AttendOut, HeadRowsMut, Merge};
use crate::extent::{extent, holds};
use crate::format::{self, Format, formats};
use crate::isa::{Isa, instruction_sets};
use crate::kv::{self, KvLayout};
use crate::matmul::{self, Args, MatmulFn, ahead, decoded};
use crate::ops::{self, Nonlinearity, RopeStyle};
use crate::recurrent::{self, Delta, GateOrder, Scan};
use crate::rotation;
use crate::simd::*;
use crate::statistics;

/// Where a product goes: `rows` rows of `cols` floats, `stride` floats apart.
#[derive(Debug)]
pub struct Tile<'a> {
    out: *mut f32,
    stride: usize,
    rows: usize,
    cols: usize,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> Tile<'a> {
    /// A tile at the start of `out`.
    ///
    /// # Panics
    /// If the rows overlap or `out` is too short for them.
    #[track_caller]
    pub fn new(out: &'a mut [f32], stride: usize, rows: usize, cols: usize) -> Self {
        assert!(rows <= 1 || stride >= cols, "rows of {cols} floats every {stride}");
        let fits = holds(out.len(), rows, stride, cols);
        assert!(fits, "a tile of {rows} rows of {cols} floats every {stride} in {}", out.len());
        Self { out: out.as_mut_ptr(), stride, rows, cols, memory: PhantomData }
    }

    /// A tile of a larger matrix, part of which other threads write.
    ///
    /// # Safety
    /// For `'a`, the first `cols` floats of each of `rows` rows, `stride` floats apart from `out`
    /// on, are initialised, valid for reads and writes, and nobody else reads or writes them.
    pub unsafe fn from_raw_parts(out: *mut f32, stride: usize, rows: usize, cols: usize) -> Self {
        Self { out, stride, rows, cols, memory: PhantomData }
    }

    /// The same tile, to be used again afterwards.
    pub fn reborrow(&mut self) -> Tile<'_> {
        Tile { memory: PhantomData, ..*self }
    }
}

/// Bytes of activations that stay in a second-level cache beside the panels that pass by.
const ROW_BLOCK_BYTES: usize = 512 << 10;
/// Rows come in multiples of this: every number that a kernel keeps in registers divides it.
const ROW_BLOCK: usize = 24;
/// Units of a chunk come in multiples of this, so that they are unpacked some at a time.
const UNIT_STEP: usize = 8;

/// The ops beside the products: name, arguments, and the generic function behind it. An op is one
/// row here; the table's field, the entry point of each instruction set and the safe method
/// follow from it.
macro_rules! ops {
    ($then:ident $($with:tt)*) => { $then! { $($with)*
        /// Writes a row of activations in the form `kind` into its group.
        ///
        /// # Panics
        /// If `out` is not [`Activation::row_bytes`] of `x.len()` long for each row of the group.
        fn quantize_row(kind: Activation, x: &[f32], out: &mut [u8], place: Place)
            = activation::quantize_row;
        /// `out = x / sqrt(mean(x^2) + eps) * weight`, all of one length.
        ///
        /// # Panics
        /// If the lengths differ.
        fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = ops::rms_norm;
        /// As [`rms_norm`](Self::rms_norm), in place.
        ///
        /// # Panics
        /// If the lengths differ.
        fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = ops::rms_norm_in_place;
        /// `out = (x - mean) / sqrt(variance + eps) * weight + bias`, all of one length.
        ///
        /// # Panics
        /// If the lengths differ.
        fn layer_norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32])
            = ops::layer_norm;
        /// Rotary position embedding of heads of `head_dim` elements: the first `2 cos.len()`
        /// dimensions of each turn by the angles whose cosines and sines are given.
        ///
        /// # Panics
        /// If `x` is no whole number of heads, or the angles do not fit a head.
        fn rope(style: RopeStyle, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32])
            = ops::rope;
        /// `out = f(gate) * up`, element by element: `pairs` is sixteen gates, the sixteen factors
        /// that belong to them, and so on.
        ///
        /// # Panics
        /// If `pairs` has not two whole vectors for every sixteen elements of `out`.
        fn gated(f: Nonlinearity, pairs: &[f32], out: &mut [f32]) = ops::gated;
        /// `out = gate * sigmoid(1.702 gate) * (up + 1)` of `pairs` as [`gated`](Self::gated) has
        /// them, with gates of at most `limit` and factors within `limit` of 0.
        ///
        /// # Panics
        /// As [`gated`](Self::gated).
        fn gated_clamped(limit: f32, pairs: &[f32], out: &mut [f32]) = ops::gated_clamped;
        /// `x = f(x)`, element by element.
        fn activate(f: Nonlinearity, x: &mut [f32]) = ops::activate;
        /// `acc += x`, element by element.
        ///
        /// # Panics
        /// If the lengths differ.
        fn add(acc: &mut [f32], x: &[f32]) = ops::add;
        /// `x *= y`, element by element.
        ///
        /// # Panics
        /// If the lengths differ.
        fn multiply(x: &mut [f32], y: &[f32]) = ops::multiply;
        /// `acc += scale * x`, element by element, the product rounded before it is added.
        ///
        /// # Panics
        /// If the lengths differ.
        fn add_scaled(acc: &mut [f32], x: &[f32], scale: f32) = ops::add_scaled;
        /// `x *= factor`, element by element.
        fn scale(x: &mut [f32], factor: f32) = ops::scale;
        /// Adds up the 32-bit words of `bytes`, wrapping, up to the last whole vector of 64 bytes,
        /// and fetches memory `ahead` bytes before it is read (and 4 times as far into the
        /// second-level cache): a yardstick for products.
        fn sum_words(bytes: &[u8], ahead: usize, sum: &mut i32) = ops::sum_words;
        /// Softmax in place.
        fn softmax(x: &mut [f32]) = ops::softmax;
        /// Writes the key and value of one position and head into its regions of the cache; into
        /// a ring, over those of an earlier lap.
        ///
        /// # Panics
        /// If a length or the position does not fit the layout.
        fn kv_store(layout: KvLayout, k_region: &mut [u8], v_region: &mut [u8], position: usize,
            k: &[f32], v: &[f32]) = kv::kv_store;
        /// Reads back what [`kv_store`](Self::kv_store) wrote, as floats.
        ///
        /// # Panics
        /// If a length or the position does not fit the layout.
        fn kv_load(layout: KvLayout, k_region: &[u8], v_region: &[u8], position: usize,
            k: &mut [f32], v: &mut [f32]) = kv::kv_load;
        /// `x = cap tanh(x / cap)`, element by element.
        fn softcap(cap: f32, x: &mut [f32]) = ops::softcap;
        /// Walsh-Hadamard transform in place, of each `block` of a row: `x = H x / sqrt(block)`, where
        /// `H[i][j]` is -1 for an odd number of bits in `i & j`, else 1. It is its own inverse.
        ///
        /// # Panics
        /// If `block` is no power of two, or the row no whole number of blocks.
        fn walsh_hadamard(block: usize, x: &mut [f32]) = rotation::walsh_hadamard;
        /// Softmax attention of the query heads that share a key/value head; see [`Attend`].
        ///
        /// # Panics
        /// If a length does not fit, the cache does not hold what the spans see, or `scratch` is
        /// shorter than [`scratch_len`](crate::scratch_len).
        fn attend(a: &Attend<'_>, out: AttendOut<'_>, scratch: &mut [f32])
            = attention::attend::<_, TILE, FUSES>;
        /// Folds the partial results of chunks, in order, into finished rows.
        ///
        /// # Panics
        /// If a length does not fit, or `scratch` is shorter than
        /// [`partial_len`](crate::partial_len).
        fn attend_merge(merge: &Merge<'_>, out: HeadRowsMut<'_>, scratch: &mut [f32])
            = attention::attend_merge;
        /// Moves the state of one head, [`state_len(d_k, d_v)`](crate::state_len), past some tokens
        /// by the gated delta rule, and writes what each reads there; see [`Delta`].
        ///
        /// # Panics
        /// If a length does not fit.
        fn delta_rule(a: &Delta<'_>, state: &mut [f32], out: HeadRowsMut<'_>)
            = recurrent::delta_rule;
        /// Moves the state of one head, [`state_len(d_state, head_dim)`](crate::state_len), past
        /// some tokens, and writes what each reads there; see [`Scan`].
        ///
        /// # Panics
        /// If a length does not fit.
        fn scan(a: &Scan<'_>, state: &mut [f32], out: HeadRowsMut<'_>) = recurrent::scan;
        /// One token of a causal convolution of channels by themselves: `window` is the last
        /// inputs, oldest first, each with its row of `weights`; then SiLU, where `silu` says so.
        ///
        /// # Panics
        /// If the window is empty or a length does not fit.
        fn short_conv(window: &[&[f32]], weights: &[&[f32]], bias: Option<&[f32]>, silu: bool,
            out: &mut [f32]) = recurrent::short_conv;
        /// `x = factor * x / sqrt(sum(x^2) + eps)`, each row of `width` elements.
        ///
        /// # Panics
        /// If `x` is no whole number of rows.
        fn l2_norm(x: &mut [f32], width: usize, eps: f32, factor: f32) = recurrent::l2_norm;
        /// RMS norm of one row, in place, and its gate; see [`GateOrder`].
        ///
        /// # Panics
        /// If the lengths differ.
        fn gated_norm(x: &mut [f32], gate: &[f32], weight: &[f32], eps: f32, order: GateOrder)
            = recurrent::gated_norm;
        /// `steps = softplus(x + bias)`, within `limits`; `decays = exp(a * steps)`.
        ///
        /// # Panics
        /// If the lengths differ.
        fn time_steps(x: &[f32], bias: &[f32], a: &[f32], limits: [f32; 2], steps: &mut [f32],
            decays: &mut [f32]) = recurrent::time_steps;
        /// Gaussian top-k: `x = max(x - (mean + deviations * deviation), 0)`, of the row's mean and
        /// standard deviation.
        ///
        /// # Panics
        /// If the row is empty.
        fn gaussian_top_k(x: &mut [f32], deviations: f32) = statistics::gaussian_top_k;
        /// Gives `x` the root mean square of `like`; of its own mean square, `least` at least is
        /// counted.
        ///
        /// # Panics
        /// If the rows are empty or their lengths differ.
        fn match_rms(x: &mut [f32], like: &[f32], least: f32) = statistics::match_rms;
        /// `out[i] = x . rows[i]`: products with a few rows that lie one after the other.
        ///
        /// # Panics
        /// If `rows` is not a row of `x.len()` for each element of `out`.
        fn dots(x: &[f32], rows: &[f32], out: &mut [f32]) = statistics::dots;
    } };
}

macro_rules! table_type {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) = $body:expr;)*) => {
        /// One instruction set's entry points.
        #[derive(Debug)]
        pub struct Kernels {
            isa: Isa,
            fused: bool,
            group: usize,
            matmul: [MatmulFn; Format::ALL.len()],
            $($name: unsafe fn($($ty),*),)*
        }

        impl Kernels { $(
            $(#[$doc])*
            #[allow(clippy::too_many_arguments, reason = "plain slices and their shapes")]
            pub fn $name(&self, $($arg: $ty),*) {
                // SAFETY: `self` is handed out only where the CPU has its instruction set; the
                // op checks the lengths.
                unsafe { (self.$name)($($arg),*) }
            }
        )* }
    };
}

ops!(table_type);

/// The entry points of one instruction set for the products, and their two lists.
macro_rules! product_entries {
    ($features:tt, $token:expr, $max:literal, $from:literal, $fused:literal;
     floats {
        $($(#[$float_doc:meta])* $number:ident $float_file:ident $float:ident $unfused:ident;)*
     } codes { $($(#[$doc:meta])* $format:ident $code:ident;)*
     } decoded as $decoded_fused:ident $decoded_unfused:ident {
        $($(#[$decoded_doc:meta])* $decoded:ident $decoded_file:ident;)*
     }) => {
        $(product_entries!(@one $features, $token,
            $float matmul $float_file::$number, $max $fused);)*
        $(product_entries!(@one $features, $token,
            $unfused matmul $float_file::$number, $max false);)*
        $(product_entries!(@one $features, $token,
            $code matmul_codes $code::$format, $max $from);)*

        const FUSED_PRODUCTS: [MatmulFn; Format::ALL.len()] =
            [$($float,)* $($code,)* $(product_entries!(@of $decoded $decoded_fused),)*];
        const UNFUSED_PRODUCTS: [MatmulFn; Format::ALL.len()] =
            [$($unfused,)* $($code,)* $(product_entries!(@of $decoded $decoded_unfused),)*];
    };
    (@of $format:ident $entry:ident) => { $entry };
    (@one [$($feature:tt),*], $token:expr,
     $name:ident $product:ident $file:ident::$format:ident, $first:literal $second:literal) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $name(a: &Args) {
            // SAFETY: the arguments are checked; the table is handed out on a CPU that has
            // these features.
            unsafe { matmul::$product::<_, format::$file::$format, $first, $second>($token, a) }
        }
    };
}

/// The entry points of one instruction set for the ops, and its two tables.
macro_rules! entries {
    ($isa:ident, $features:tt, $token:expr;
     $($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) = $body:expr;)*) => {
        $(entries!(@one $features, $token, fn $name($($arg: $ty),*) = $body);)*
        entries!(@one $features, $token,
            fn attend_unfused(a: &Attend<'_>, out: AttendOut<'_>, scratch: &mut [f32])
            = attention::attend::<_, TILE, false>);

        const TABLE: Kernels = Kernels {
            isa: Isa::$isa,
            fused: true,
            group: GROUP,
            matmul: FUSED_PRODUCTS,
            $($name,)*
        };
        pub(super) static FUSED: Kernels = TABLE;
        pub(super) static UNFUSED: Kernels = Kernels {
            fused: false,
            matmul: UNFUSED_PRODUCTS,
            attend: attend_unfused,
            ..TABLE
        };
    };
    (@one [$($feature:tt),*], $token:expr,
     fn $name:ident($($arg:ident: $ty:ty),*) = $body:expr) => {
        $(#[target_feature(enable = $feature)])*
        #[allow(clippy::too_many_arguments, reason = "plain slices and their shapes")]
        unsafe fn $name($($arg: $ty),*) {
            // SAFETY: the table is handed out on a CPU that has these features.
            unsafe { $body($token, $($arg),*) }
        }
    };
}

/// The entry points of each instruction set: one function per op and format, each with the
/// features enabled and everything else inlined into it.
macro_rules! tiers {
    ($($(#[$doc:meta])* $isa:ident $name:literal $module:ident ($cfg:meta) $features:tt
       { $token:expr, rows $max:literal, unpack $from:literal, tile $tile:literal,
         fused $fused:literal };)*) => {
        $(
            #[cfg($cfg)]
            mod $module {
                use super::*;

                const TILE: usize = $tile;
                const GROUP: usize = $max;
                const FUSES: bool = $fused;
                const _: () = assert!(ROW_BLOCK.is_multiple_of(GROUP), "whole tiles in a block");

                formats!(product_entries $features, $token, $max, $from, $fused;);
                ops!(entries $isa, $features, $token;);
            }
        )*

        /// The tables of an instruction set, unfused and fused; `None` on other processors.
        fn table(isa: Isa) -> Option<[&'static Kernels; 2]> {
            match isa {
                $(
                    #[cfg($cfg)]
                    Isa::$isa => Some([&$module::UNFUSED, &$module::FUSED]),
                    #[cfg(not($cfg))]
                    Isa::$isa => None,
                )*
            }
        }
    };
}

instruction_sets!(tiers);

impl Kernels {
    /// The kernels of `isa`; `None` if this processor does not run it.
    ///
    /// Attention and the products of F32, F16 and BF16 weights use fused multiply-add where the
    /// instruction set has it; the bits of everything else are the same on every instruction set.
    pub fn for_isa(isa: Isa) -> Option<&'static Self> {
        ahead::suit_processor();
        table(isa).filter(|_| isa.is_supported()).map(|[_, fused]| fused)
    }

    /// The kernels of `isa` whose bits are all the same on every instruction set.
    pub fn deterministic(isa: Isa) -> Option<&'static Self> {
        ahead::suit_processor();
        table(isa).filter(|_| isa.is_supported()).map(|[unfused, _]| unfused)
    }

    /// The kernels of the best instruction set that this processor runs.
    pub fn best() -> &'static Self {
        Self::for_isa(Isa::best()).unwrap_or(&portable::FUSED)
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether products of floats and attention may be fused.
    pub fn is_fused(&self) -> bool {
        self.fused
    }

    /// How many rows of activations lie side by side; see [`Activation`].
    pub fn group(&self) -> usize {
        self.group
    }

    /// Writes rows of `k` activations, one after another in `x`, in the form `kind`.
    ///
    /// # Panics
    /// If `k` is 0, `x` no whole number of rows or `out` not [`Activation::row_bytes`] for each.
    pub fn quantize_rows(&self, kind: Activation, k: usize, x: &[f32], out: &mut [u8]) {
        let stride = kind.row_bytes(k);
        assert!(k > 0 && x.len().is_multiple_of(k), "{} values in rows of {k}", x.len());
        let fits = extent(x.len() / k, stride, stride) == Some(out.len());
        assert!(fits, "rows of {k} into {} bytes", out.len());
        // Without any rows, K may be of any size.
        let grouped = |len: usize| self.group.saturating_mul(len);
        for (x, out) in x.chunks(grouped(k)).zip(out.chunks_mut(grouped(stride))) {
            let rows = x.len() / k;
            for (row, x) in x.chunks_exact(k).enumerate() {
                self.quantize_row(kind, x, out, Place { rows, row });
            }
        }
    }

    /// Multiplies every number of a tile by `factor`, after a product has written them.
    pub fn scale_tile(&self, tile: Tile<'_>, factor: f32) {
        for row in 0..tile.rows {
            // SAFETY: a tile's rows are floats, valid and nobody else's, as its makers check or
            // promise.
            let row = unsafe {
                std::slice::from_raw_parts_mut(tile.out.add(row * tile.stride), tile.cols)
            };
            self.scale(row, factor);
        }
    }

    /// Multiplies panels of `format` with rows of activations, all of `k` values:
    /// `out[m][16 p + r] = sum over k of panel[p][r][k] * x[m][k]`.
    ///
    /// Columns of the last panel beyond the tile's are not written.
    ///
    /// # Panics
    /// If `panels` is no whole number of panels, or the form or number of the rows does not fit
    /// the format or the tile.
    pub fn matmul(&self, format: Format, k: usize, panels: &[u8], x: Rows<'_>, out: Tile<'_>) {
        let panel_bytes = format.panel_bytes(k);
        assert!(k > 0 && panels.len().is_multiple_of(panel_bytes), "whole panels of {format}");
        let n_panels = panels.len() / panel_bytes;
        assert!(out.cols.div_ceil(PANEL_ROWS) == n_panels, "{} columns", out.cols);
        assert!(x.kind == format.activation() && x.stride == x.kind.row_bytes(k), "{x:?}");
        assert!(x.rows == out.rows, "{} rows to {}", x.rows, out.rows);
        assert!(x.group == self.group, "groups of {}, not {}", x.group, self.group);
        // What passes by all panels should stay in the second-level cache: some rows of floats,
        // or some units of all rows (which `decoded` cuts by itself).
        let (rows, chunk) = if format.is_decoded() {
            (usize::MAX, usize::MAX)
        } else if x.kind == Activation::F32 {
            ((ROW_BLOCK_BYTES / x.stride / ROW_BLOCK * ROW_BLOCK).max(ROW_BLOCK), usize::MAX)
        } else {
            let chunk = ROW_BLOCK_BYTES / (x.rows * x.kind.record_bytes()).max(1);
            (usize::MAX, (chunk / UNIT_STEP * UNIT_STEP).max(UNIT_STEP))
        };
        for from in (0..x.rows).step_by(rows) {
            let args = Args {
                panels: panels.as_ptr(),
                n_panels,
                panel_bytes,
                units: k.div_ceil(format.entry().unit.0),
                chunk,
                x: x.data[from * x.stride..].as_ptr(),
                x_stride: x.stride,
                rows: rows.min(x.rows - from),
                out: out.out.wrapping_add(from * out.stride),
                out_stride: out.stride,
                cols: out.cols,
            };
            let product = self.matmul[format as usize];
            // SAFETY: the lengths are checked above; `self` is handed out only where the CPU has
            // its instruction set.
            unsafe {
                if format.is_decoded() {
                    decoded::matmul(product, format.entry(), &args);
                } else {
                    product(&args);
                }
            }
        }
    }
}
