use super::*;

fn sampler(params: SamplingParams, history: &[u32]) -> Sampler {
    let mut sampler = Sampler::new(params, 4).unwrap();
    history.iter().for_each(|&id| sampler.accept(id));
    sampler
}

/// Chooses and goes on with what was chosen.
fn next(sampler: &mut Sampler, logits: &[f32]) -> u32 {
    let choice = sampler.choose(logits).unwrap();
    sampler.accept(choice.id);
    choice.id
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let mut greedy = sampler(SamplingParams::greedy(), &[]);
    let choice = greedy.choose(&[0.0, 2.0, 2.0, 1.0]).unwrap();
    assert_eq!(choice.id, 1);
    let sum = 1.0 + 2.0 * 2f64.exp() + 1f64.exp();
    assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn logprob_is_of_the_raw_logits() {
    let params = SamplingParams::default().temperature(5.0).top_k(1).repeat_penalty(2.0).seed(1);
    // The penalty turns 3 into 1.5, so that 2 wins.
    let choice = sampler(params, &[1]).choose(&[0.0, 3.0, 2.0, -200.0]).unwrap();
    assert_eq!(choice.id, 2);
    let sum = 1.0 + 3f64.exp() + 2f64.exp();
    assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn a_seed_repeats_and_frequencies_follow_the_probabilities() {
    let params = SamplingParams::default().temperature(1.0).top_k(0).top_p(1.0).min_p(0.0).seed(9);
    let logits = [0.1f32.ln(), 0.4f32.ln(), 0.2f32.ln(), 0.3f32.ln()];
    let run = || {
        let mut sampler = sampler(params.clone(), &[]);
        (0..4000).map(|_| next(&mut sampler, &logits)).collect::<Vec<_>>()
    };
    let ids = run();
    assert_eq!(ids, run());
    for (id, p) in [0.1, 0.4, 0.2, 0.3].into_iter().enumerate() {
        let share = ids.iter().filter(|&&i| i as usize == id).count() as f64 / 4000.0;
        assert!((share - p).abs() < 0.03, "{id}: {share}");
    }
}

#[test]
fn the_penalty_forgets() {
    let params = SamplingParams::greedy().repeat_penalty(10.0);
    let logits = [4.0, 3.0, 2.0, 1.0];
    let ids = |params| {
        let mut sampler = sampler(params, &[0]);
        [(); 6].map(|()| next(&mut sampler, &logits))
    };
    assert_eq!(ids(params.clone().repeat_last_n(2)), [1, 2, 0, 1, 2, 0]);
    // Without a limit nothing is forgotten: the likeliest of those penalised comes last.
    assert_eq!(ids(params.repeat_last_n(None)), [1, 2, 3, 0, 0, 0]);
}

#[test]
fn hooks_come_first_and_in_order() {
    let forbid = |ids: &'static [usize]| {
        move |_: &[u32], logits: &mut [f32]| {
            ids.iter().for_each(|&id| logits[id] = f32::NEG_INFINITY);
        }
    };
    for params in
        [SamplingParams::greedy(), SamplingParams::default().top_k(0).top_p(1.0).min_p(0.0)]
    {
        let swap = |tokens: &[u32], logits: &mut [f32]| {
            assert_eq!(tokens, [3, 1]);
            logits.swap(0, 2);
        };
        let mut sampler =
            sampler(params, &[3, 1]).with_processor(forbid(&[0, 1])).with_processor(swap);
        for _ in 0..50 {
            let choice = sampler.choose(&[9.0, 8.0, 7.0, -60.0]).unwrap();
            // The model's own logits decide what a choice is worth.
            assert!(choice.id == 0 && choice.logprob > -0.5, "{choice:?}");
        }
        let mut none = sampler.with_processor(forbid(&[0, 1, 2, 3]));
        assert!(none.choose(&[9.0, 8.0, 7.0, -60.0]).unwrap_err().to_string().contains("excluded"));
    }
}

#[test]
fn bad_values_are_named() {
    let bad = |params: SamplingParams| params.validate().unwrap_err().to_string();
    let ok = SamplingParams::default;
    assert!(bad(ok().temperature(-1.0)).contains("temperature is -1"));
    assert!(bad(ok().temperature(f32::NAN)).contains("temperature"));
    assert!(bad(ok().top_p(1.5)).contains("top_p"));
    assert!(bad(ok().min_p(-0.5)).contains("min_p"));
    assert!(bad(ok().repeat_penalty(0.0)).contains("repeat_penalty"));
    let mut sampler = sampler(SamplingParams::greedy(), &[]);
    assert!(sampler.choose(&[0.0, f32::NAN, 0.0, 0.0]).is_err());
    let error = sampler.choose(&[0.0; 5]).unwrap_err().to_string();
    assert!(error.contains("5 logits") && error.contains("4"), "{error}");
}
