//! Which experts each row goes through.

use std::ops::Range;

use goldcrest_kernels::{Kernels, Nonlinearity};

use crate::model::pass::needs::Routing;
use crate::spec::{Experts, Groups, RankedBy, Scores, Selection, Stage};

/// An expert that a row goes through, and the weight of what it makes.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Choice {
    expert: u32,
    weight: f32,
}

/// In the place of a rank: below all of them.
const TAKEN: f32 = f32::NEG_INFINITY;

/// Which experts are at work, and on which rows: every worker's own copy.
#[derive(Default)]
pub(in super::super) struct Routes {
    /// `[count]`: the weights of all experts and by what they are chosen, on the way to choices;
    /// cursors on the way to rows.
    weights: Vec<f32>,
    ranks: Vec<f32>,
    groups: Vec<f32>,
    cursors: Vec<usize>,
    /// A single row's experts.
    pub(super) picked: Vec<Choice>,
    /// In the order of their index.
    pub(super) active: Vec<Active>,
    /// `[slots]`: the row of the pass, and its weight.
    pub(super) rows: Vec<(usize, f32)>,
    /// A single row's activations for each expert's last matrix, in the form that it reads.
    pub(super) forms: Vec<u8>,
}

/// An expert at work on the rows in some slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    pub(super) expert: usize,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl Routes {
    pub(in super::super) fn grow(&mut self, routing: &Routing, rows: usize, group: usize) {
        for buffer in [&mut self.weights, &mut self.ranks, &mut self.groups] {
            buffer.resize(routing.count, 0.0);
        }
        self.cursors.resize(routing.count, 0);
        let at_work = routing.count.min(rows * routing.used);
        self.active.reserve(at_work.saturating_sub(self.active.len()));
        self.rows.resize(routing.slots(rows, group), (0, 0.0));
        self.picked.resize(routing.used, Choice::default());
        self.forms.resize(routing.used * routing.form_bytes, 0);
    }

    /// The `out.len()` experts that the router's products choose, in the order of their index.
    pub(super) fn choose<S: Stage<Vector = Vec<f32>>>(
        &mut self,
        kernels: &Kernels,
        products: &[f32],
        mixer: &Experts<S>,
        out: &mut [Choice],
    ) {
        let Selection { scores, groups, renormalise, scale } = mixer.selection;
        let weights = &mut self.weights[..products.len()];
        weights.copy_from_slice(products);
        match scores {
            Scores::Softmax => kernels.softmax(weights),
            Scores::Sigmoid => kernels.activate(Nonlinearity::Sigmoid, weights),
        }
        let ranks = &mut self.ranks[..products.len()];
        ranks.copy_from_slice(weights);
        if let Some(bias) = &mixer.choice_bias {
            kernels.add(ranks, bias);
        }
        if let Some(groups) = groups {
            keep_groups(ranks, groups, &mut self.groups);
        }
        for choice in out.iter_mut() {
            let best = take_best(ranks);
            *choice = Choice { expert: best as u32, weight: weights[best] };
        }
        out.sort_unstable_by_key(|choice| choice.expert);
        if renormalise {
            let sum: f32 = out.iter().map(|choice| choice.weight).sum();
            // Sigmoids may all be 0; a softmax's greatest are not.
            let sum = if scores == Scores::Sigmoid { sum + 1e-20 } else { sum };
            out.iter_mut().for_each(|choice| choice.weight /= sum);
        }
        if scale != 1.0 {
            out.iter_mut().for_each(|choice| choice.weight *= scale);
        }
    }

    /// Gives every expert its rows. `choices` are `[rows, used]`.
    pub(super) fn group<'c>(
        &mut self,
        choices: impl Iterator<Item = &'c Choice> + Clone,
        used: usize,
        count: usize,
        group: usize,
    ) {
        self.active.clear();
        let cursors = &mut self.cursors[..count];
        cursors.fill(0);
        for choice in choices.clone() {
            cursors[choice.expert as usize] += 1;
        }
        let mut first = 0;
        for (expert, cursor) in cursors.iter_mut().enumerate() {
            let count = std::mem::replace(cursor, first);
            if count > 0 {
                self.active.push(Active { expert, first, count });
                first = (first + count).next_multiple_of(group);
            }
        }
        for (i, choice) in choices.enumerate() {
            let cursor = &mut cursors[choice.expert as usize];
            self.rows[*cursor] = (i / used, choice.weight);
            *cursor += 1;
        }
    }

    /// Slots in use, whole groups.
    pub(super) fn slots(&self, group: usize) -> usize {
        let last = self.active.last();
        last.map_or(0, |active| (active.first + active.count).next_multiple_of(group))
    }

    /// The slots of group `index` that have rows.
    pub(super) fn slots_of(&self, index: usize, group: usize) -> Range<usize> {
        let first = index * group;
        let at = self.active.partition_point(|active| active.first + active.count <= first);
        let end = self.active.get(at).map_or(first, |active| active.first + active.count);
        first..end.min(first + group)
    }
}

/// The place of the greatest rank, the first of equals, which is taken: each once, whatever the
/// ranks are, since NaN is not [`TAKEN`].
fn take_best(ranks: &mut [f32]) -> usize {
    let free = (0..ranks.len()).filter(|&i| ranks[i] != TAKEN);
    let best = free.reduce(|a, b| if ranks[b] > ranks[a] { b } else { a });
    let best = best.expect("no more are chosen than there are");
    ranks[best] = TAKEN;
    best
}

/// Takes the ranks of all groups but the best ones; `sums` has room for every group's.
fn keep_groups(ranks: &mut [f32], groups: Groups, sums: &mut [f32]) {
    let size = ranks.len() / groups.count;
    let sums = &mut sums[..groups.count];
    for (sum, ranks) in sums.iter_mut().zip(ranks.chunks_exact(size)) {
        *sum = best_sum(ranks, groups.ranked_by);
    }
    (0..groups.used).for_each(|_| _ = take_best(sums));
    for (sum, ranks) in sums.iter().zip(ranks.chunks_exact_mut(size)) {
        if *sum != TAKEN {
            ranks.fill(TAKEN);
        }
    }
}

/// The greatest rank, or the sum of the two greatest. Never [`TAKEN`].
fn best_sum(ranks: &[f32], by: RankedBy) -> f32 {
    let (mut first, mut second) = (f32::MIN, f32::MIN);
    for &rank in ranks {
        if rank > first {
            (first, second) = (rank, first);
        } else if rank > second {
            second = rank;
        }
    }
    match by {
        RankedBy::Best => first,
        RankedBy::BestTwo => (first + second).max(f32::MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::spec::{Gating, Linear};

    /// Experts of which only the choice matters, and with a bias for it.
    struct OnlyChoice;

    impl Stage for OnlyChoice {
        type Matrix = ();
        type Vector = Vec<f32>;
        type Rows = ();
        type Bank = ();
        type Heads = ();
    }

    fn select(scores: Scores) -> Selection {
        Selection { scores, groups: None, renormalise: false, scale: 1.0 }
    }

    fn chosen(
        products: &[f32],
        used: usize,
        selection: Selection,
        choice_bias: Option<&[f32]>,
    ) -> Vec<(u32, f32)> {
        let mut routes = Routes::default();
        let count = products.len();
        routes.grow(&Routing { count, used, form_bytes: 0 }, 1, 1);
        let mixer = Experts::<OnlyChoice> {
            count,
            used,
            ffn: 1,
            gating: Gating::By(Nonlinearity::Silu),
            selection,
            router: Linear { matrix: (), bias: None },
            router_norm: None,
            router_scale: 1.0,
            choice_bias: choice_bias.map(<[f32]>::to_vec),
            bank: (),
            biases: None,
        };
        let mut out = vec![Choice::default(); used];
        routes.choose(Kernels::best(), products, &mixer, &mut out);
        out.iter().map(|choice| (choice.expert, choice.weight)).collect()
    }

    fn experts(choices: &[(u32, f32)]) -> Vec<u32> {
        choices.iter().map(|(expert, _)| *expert).collect()
    }

    fn sum(choices: &[(u32, f32)]) -> f32 {
        choices.iter().map(|(_, weight)| weight).sum()
    }

    const SOFTMAX: Scores = Scores::Softmax;

    #[test]
    fn the_likeliest_in_the_order_of_their_index() {
        let of = |products: &[f32]| experts(&chosen(products, 2, select(SOFTMAX), None));
        assert_eq!(of(&[0.0, 3.0, 1.0, 4.0]), [1, 3]);
        assert_eq!(of(&[2.0, 2.0, 2.0]), [0, 1], "the first of equals");
    }

    #[test]
    fn weights_are_normalised_and_scaled() {
        let of = |renormalise, scale| {
            let selection = Selection { renormalise, scale, ..select(SOFTMAX) };
            sum(&chosen(&[1.0, 2.0, 3.0], 2, selection, None))
        };
        assert!((of(true, 1.0) - 1.0).abs() < 1e-6);
        assert!((of(true, 2.5) - 2.5).abs() < 1e-5);
        // 1 less the first expert's exp(1) / (exp(1) + exp(2) + exp(3)).
        assert!((of(false, 1.0) - 0.909_969).abs() < 1e-5);
    }

    #[test]
    fn a_bias_chooses_and_does_not_weigh() {
        let products = [0.0, 1.0, -1.0];
        let bias = [0.0, -1.0, 0.5];
        let got = chosen(&products, 2, select(Scores::Sigmoid), Some(&bias));
        assert_eq!(experts(&got), [0, 2]);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert!((got[0].1 - 0.5).abs() < 1e-6 && (got[1].1 - sigmoid(-1.0)).abs() < 1e-6);
        // Below every sigmoid, and chosen all the same where there is nothing else.
        let got = chosen(&products, 3, select(Scores::Sigmoid), Some(&[-9.0; 3]));
        assert_eq!(experts(&got), [0, 1, 2]);
    }

    #[test]
    fn only_the_best_groups_are_chosen_from() {
        // Groups of two: the greatest of all is in the second, the greatest sum in the third.
        let products = [0.1, 0.2, 2.0, -9.0, 1.5, 1.4, 0.0, 0.3];
        let of = |ranked_by, used, choose| {
            let groups = Some(Groups { count: 4, used, ranked_by });
            experts(&chosen(&products, choose, Selection { groups, ..select(SOFTMAX) }, None))
        };
        assert_eq!(of(RankedBy::Best, 1, 2), [2, 3]);
        assert_eq!(of(RankedBy::BestTwo, 1, 2), [4, 5]);
        assert_eq!(of(RankedBy::Best, 2, 3), [2, 4, 5]);
        assert_eq!(of(RankedBy::BestTwo, 4, 3), [2, 4, 5]);
    }

    /// A hostile file's: every expert is chosen once all the same.
    #[test]
    fn products_that_are_no_numbers() {
        let groups = Some(Groups { count: 3, used: 2, ranked_by: RankedBy::BestTwo });
        for products in [
            [f32::NAN; 6],
            [f32::INFINITY; 6],
            [f32::NEG_INFINITY; 6],
            [0.0, f32::NAN, 1.0, f32::INFINITY, 2.0, f32::NEG_INFINITY],
        ] {
            for scores in [SOFTMAX, Scores::Sigmoid] {
                for groups in [None, groups] {
                    let selection = Selection { groups, renormalise: true, ..select(scores) };
                    let got = experts(&chosen(&products, 3, selection, Some(&[-3e38; 6])));
                    assert_eq!(got.len(), 3);
                    assert!(got.windows(2).all(|pair| pair[0] < pair[1]), "{got:?}");
                }
            }
        }
    }
}
