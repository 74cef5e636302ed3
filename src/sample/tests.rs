use super::*;

fn sampler(params: SamplingParams, history: &[u32]) -> Sampler {
    Sampler::new(params, 4, history).unwrap()
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let mut greedy = sampler(SamplingParams::greedy(), &[]);
    let choice = greedy.choose(&[0.0, 2.0, 2.0, 1.0], Kernels::best()).unwrap();
    assert_eq!(choice.id, 1);
    let sum = 1.0 + 2.0 * 2f64.exp() + 1f64.exp();
    assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn logprob_is_of_the_raw_logits() {
    let params = SamplingParams {
        temperature: 5.0,
        top_k: 1,
        repeat_penalty: 2.0,
        seed: Some(1),
        ..Default::default()
    };
    // The penalty turns 3 into 1.5, so that 2 wins.
    let choice = sampler(params, &[1]).choose(&[0.0, 3.0, 2.0, -200.0], Kernels::best()).unwrap();
    assert_eq!(choice.id, 2);
    let sum = 1.0 + 3f64.exp() + 2f64.exp();
    assert!((f64::from(choice.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
}

#[test]
fn a_seed_repeats_and_frequencies_follow_the_probabilities() {
    let params = SamplingParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(9),
        ..Default::default()
    };
    let logits = [0.1f32.ln(), 0.4f32.ln(), 0.2f32.ln(), 0.3f32.ln()];
    let run = || {
        let mut sampler = sampler(params.clone(), &[]);
        (0..4000).map(|_| sampler.choose(&logits, Kernels::best()).unwrap().id).collect::<Vec<_>>()
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
    let params =
        SamplingParams { repeat_penalty: 10.0, repeat_last_n: 2, ..SamplingParams::greedy() };
    let mut sampler = sampler(params, &[0]);
    let logits = [4.0, 3.0, 2.0, 1.0];
    let ids: Vec<u32> =
        (0..6).map(|_| sampler.choose(&logits, Kernels::best()).unwrap().id).collect();
    assert_eq!(ids, [1, 2, 0, 1, 2, 0]);
}

#[test]
fn bad_values_are_named() {
    let bad = |params: SamplingParams| params.validate().unwrap_err().to_string();
    let ok = SamplingParams::default;
    assert!(bad(SamplingParams { temperature: -1.0, ..ok() }).contains("temperature is -1"));
    assert!(bad(SamplingParams { temperature: f32::NAN, ..ok() }).contains("temperature"));
    assert!(bad(SamplingParams { top_p: 1.5, ..ok() }).contains("top_p"));
    assert!(bad(SamplingParams { min_p: -0.5, ..ok() }).contains("min_p"));
    assert!(bad(SamplingParams { repeat_penalty: 0.0, ..ok() }).contains("repeat_penalty"));
    assert!(bad(SamplingParams { stop: vec![String::new()], ..ok() }).contains("stop"));
    let mut sampler = sampler(SamplingParams::greedy(), &[]);
    assert!(sampler.choose(&[0.0, f32::NAN, 0.0, 0.0], Kernels::best()).is_err());
}
