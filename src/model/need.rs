//! What a model needs in memory, against what there is.

use goldcrest_kernels::KvType;

use super::memory::AtHand;
use crate::error::{Error, ErrorKind, Result, input_error};
use crate::load::in_words;

/// The context where the caller does not say, if the model has that much.
pub(crate) const DEFAULT_CONTEXT: usize = 4096;
/// What a context that is chosen to fit leaves to others: a share of what is at hand.
const SPARE: u64 = 10;

/// The context that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// The model's, 4096 at most.
    Usual,
    Of(usize),
    /// The longest that fits.
    Longest,
}

/// Where the memory at hand is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    System,
    Caller(u64),
}

impl Known {
    pub(super) fn at_hand(self) -> Option<AtHand> {
        match self {
            Self::System => super::memory::at_hand(),
            Self::Caller(bytes) => Some(AtHand { bytes, by: "as the caller says".into() }),
        }
    }
}

/// Bytes that do not depend on the context.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fixed {
    /// Weights that are packed or copied.
    pub(crate) weights: u64,
    /// Weights that stay in a mapped file, whose pages the system takes back where memory is short:
    /// they need none to run, but are slow without.
    pub(crate) mapped: u64,
    /// What passes work in.
    pub(crate) passes: u64,
}

/// A model's need.
pub(super) struct Need<'a> {
    pub(super) fixed: Fixed,
    /// Bytes of a session's state; `None` where they do not fit the address space.
    pub(super) state: &'a dyn Fn(KvType, usize) -> Option<u64>,
    pub(super) kv: KvType,
    /// Positions that the model was made for.
    pub(super) longest: usize,
}

impl Need<'_> {
    /// The context that is to be loaded, if what it needs is at hand. Where the system does not tell
    /// what is, anything is, and the longest context that fits is the usual one.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`] where `checked` and the need is more than there is; [`ErrorKind::Input`]
    /// for a context that the model was not made for.
    pub(super) fn context(
        &self,
        asked: Context,
        at_hand: Option<&AtHand>,
        checked: bool,
    ) -> Result<usize> {
        let usual = self.longest.min(DEFAULT_CONTEXT);
        let context = match (asked, at_hand) {
            (Context::Of(context), _) if !(1..=self.longest).contains(&context) => {
                return Err(input_error(format!(
                    "a context of {context} tokens: the model was made for 1 to {}",
                    self.longest
                )));
            }
            (Context::Of(context), _) => context,
            (Context::Usual, _) | (Context::Longest, None) => usual,
            (Context::Longest, Some(at_hand)) => self.to_choose(at_hand).unwrap_or(usual),
        };
        match at_hand {
            Some(at_hand) if checked => self.check(context, at_hand).map(|()| context),
            _ => Ok(context),
        }
    }

    /// The longest context that leaves some memory to others, and mapped weights theirs.
    fn to_choose(&self, at_hand: &AtHand) -> Option<usize> {
        let bytes = at_hand.bytes - at_hand.bytes / SPARE;
        self.longest_within(self.kv, bytes.saturating_sub(self.fixed.mapped))
    }

    /// Bytes for a context; `None` where they do not fit the address space.
    fn bytes(&self, kv: KvType, context: usize) -> Option<u64> {
        let Fixed { weights, passes, .. } = self.fixed;
        weights.checked_add(passes)?.checked_add((self.state)(kv, context)?)
    }

    fn longest_within(&self, kv: KvType, bytes: u64) -> Option<usize> {
        let fits = |context| self.bytes(kv, context).is_some_and(|need| need <= bytes);
        // A longer context never needs less.
        let (mut fit, mut not) = (0, self.longest + 1);
        while not - fit > 1 {
            let middle = fit + (not - fit) / 2;
            *if fits(middle) { &mut fit } else { &mut not } = middle;
        }
        (fit > 0).then_some(fit)
    }

    fn check(&self, context: usize, at_hand: &AtHand) -> Result<()> {
        let need = self.bytes(self.kv, context);
        if need.is_some_and(|need| need <= at_hand.bytes) {
            return Ok(());
        }
        let Fixed { weights, passes, .. } = self.fixed;
        let state = (self.state)(self.kv, context);
        Err(Error::new(
            ErrorKind::Memory,
            format!(
                "the model needs {} of memory ({} of weights, {} of state for a context of {context} \
                 tokens, {} for its passes), and {} are at hand ({}); {}",
                size(need),
                size(Some(weights)),
                size(state),
                size(Some(passes)),
                size(Some(at_hand.bytes)),
                at_hand.by,
                self.advice(context, at_hand.bytes)
            ),
        ))
    }

    /// What would fit instead.
    fn advice(&self, context: usize, bytes: u64) -> String {
        let mut ways = Vec::new();
        if let Some(shorter) = self.longest_within(self.kv, bytes) {
            ways.push(format!("a context of {shorter} tokens (\"auto\" chooses one)"));
        }
        let smaller = [KvType::F16, KvType::Q8_0].into_iter().find(|&kv| {
            let less = (self.state)(kv, context) < (self.state)(self.kv, context);
            less && self.bytes(kv, context).is_some_and(|need| need <= bytes)
        });
        ways.extend(smaller.map(|kv| format!("keys and values in {}", kv_name(kv))));
        let packed = Need { fixed: Fixed { weights: 0, ..self.fixed }, ..*self };
        if self.fixed.weights > 0 && packed.bytes(self.kv, context).is_some_and(|n| n <= bytes) {
            ways.push("a packed file of it, whose weights are mapped".into());
        }
        match ways.as_slice() {
            [] => "no context, and no packed file of it, would fit".into(),
            ways => format!("what fits: {}", ways.join(", or ")),
        }
    }
}

fn kv_name(kv: KvType) -> &'static str {
    match kv {
        KvType::F32 => "f32",
        KvType::F16 => "f16",
        KvType::Q8_0 => "q8_0",
    }
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "more than an address can say".into(), in_words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: Fixed = Fixed { weights: 1000, mapped: 0, passes: 100 };

    fn at_hand(bytes: u64) -> Option<AtHand> {
        Known::Caller(bytes).at_hand()
    }

    /// Two bytes a token in half floats.
    fn state(kv: KvType, context: usize) -> Option<u64> {
        let halves = match kv {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
        };
        (context as u64).checked_mul(halves)
    }

    fn need(fixed: Fixed) -> Need<'static> {
        Need { fixed, state: &state, kv: KvType::F16, longest: 10_000 }
    }

    fn refusal(fixed: Fixed, context: Context, bytes: u64) -> String {
        let error = need(fixed).context(context, at_hand(bytes).as_ref(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory);
        error.to_string()
    }

    #[test]
    fn what_fits_is_what_was_asked_for() {
        let need = need(FIXED);
        let context = |asked, bytes| need.context(asked, at_hand(bytes).as_ref(), true);
        assert_eq!(context(Context::Of(50), 1200).unwrap(), 50);
        assert!(context(Context::Of(51), 1200).is_err());
        assert_eq!(context(Context::Usual, 1100 + 2 * 4096).unwrap(), 4096);
        assert!(context(Context::Usual, 1100 + 2 * 4096 - 1).is_err());
    }

    #[test]
    fn a_context_that_the_model_was_not_made_for_is_another_error() {
        for asked in [0, 10_001] {
            let error = need(FIXED).context(Context::Of(asked), None, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Input);
        }
    }

    #[test]
    fn nothing_is_refused_where_nothing_is_known_or_wanted() {
        let need = need(FIXED);
        assert_eq!(need.context(Context::Of(10_000), None, true).unwrap(), 10_000);
        assert_eq!(need.context(Context::Longest, None, true).unwrap(), 4096);
        assert_eq!(need.context(Context::Usual, at_hand(1).as_ref(), false).unwrap(), 4096);
    }

    #[test]
    fn the_longest_context_leaves_a_tenth() {
        let longest =
            |fixed, bytes| need(fixed).context(Context::Longest, at_hand(bytes).as_ref(), true);
        // 9000 less 1100 for the rest.
        assert_eq!(longest(FIXED, 10_000).unwrap(), 3950);
        assert_eq!(longest(FIXED, 1_000_000).unwrap(), 10_000);
        let packed = Fixed { weights: 0, mapped: 1000, passes: 100 };
        assert_eq!(longest(packed, 10_000).unwrap(), 3950);
        // Mapped weights that do not fit are no reason to refuse a context.
        assert_eq!(longest(Fixed { mapped: 1 << 40, ..packed }, 10_000).unwrap(), 4096);
    }

    #[test]
    fn mapped_weights_are_not_needed_to_run() {
        let packed = need(Fixed { weights: 0, mapped: 1 << 40, passes: 100 });
        assert_eq!(packed.context(Context::Of(50), at_hand(200).as_ref(), true).unwrap(), 50);
    }

    #[test]
    fn a_refusal_says_what_is_needed_and_what_would_fit() {
        let text = refusal(FIXED, Context::Of(1000), 2500);
        for part in [
            "needs 3.0 KiB of memory",
            "1000 B of weights",
            "2.0 KiB of state for a context of 1000 tokens",
            "100 B for its passes",
            "2.4 KiB are at hand (as the caller says)",
            "a context of 700 tokens",
            "keys and values in q8_0",
            "a packed file",
        ] {
            assert!(text.contains(part), "\"{part}\" in {text}");
        }
        let text = refusal(FIXED, Context::Of(1000), 1000);
        assert!(!text.contains("a context of 7") && !text.contains("q8_0"), "{text}");
        assert!(text.contains("no context, and no packed file of it, would fit"), "{text}");
    }

    #[test]
    fn what_no_address_can_say_is_refused() {
        let state = |_, context| if context > 10 { None } else { Some(1) };
        let need = Need { state: &state, ..need(FIXED) };
        let error = need.context(Context::Of(11), at_hand(u64::MAX).as_ref(), true).unwrap_err();
        assert!(error.to_string().contains("a context of 10 tokens"), "{error}");
    }
}
