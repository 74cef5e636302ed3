//! Sessions and generations: how they end, and what does not change their results.

mod common;

use std::time::Duration;

use common::models::{PROMPT, STORY, VOCABULARY, ids, long_stories, random, stories, stories_with};
use common::{
    assets, bits, continued, greedy, greedy_past_ends, greedy_until, logits, told, vocabulary,
};
use goldcrest::load::GgmlType;
use goldcrest::{
    CancelToken, ErrorKind, Format, GenerationParams, Isa, Model, Session, SessionOptions,
};
use goldcrest::{StopReason, Token};

fn model() -> Model {
    Model::loader(stories()).threads(2).load().unwrap()
}

/// A session that has [`PROMPT`].
fn prompted(model: &Model) -> Session {
    let mut session = model.session().unwrap();
    session.push(&prompt(model)).unwrap();
    session
}

fn prompt(model: &Model) -> Vec<u32> {
    model.tokenizer().unwrap().encode(PROMPT).unwrap()
}

/// Text and reason of a generation after the prompt.
fn tell(model: &Model, params: GenerationParams) -> (String, Option<StopReason>) {
    let mut session = prompted(model);
    let mut generator = session.generate(params).unwrap();
    let text = generator.by_ref().map(|token| token.unwrap().text).collect();
    (text, generator.stop_reason())
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let model = model();
    let (text, reason) = tell(&model, greedy_until(100, &["tle girl", "nowhere"]));
    assert_eq!(text, STORY.strip_suffix("tle girl").unwrap());
    assert_eq!(reason, Some(StopReason::StopString));
    // Text that was held back comes out when the generation ends otherwise.
    let (plain, _) = tell(&model, greedy(12));
    let tail = plain.chars().last().unwrap();
    let (held, reason) = tell(&model, greedy_until(12, &[&format!("{tail}never")]));
    assert_eq!((held, reason), (plain, Some(StopReason::MaxTokens)));
}

/// Ids, tokens in the context afterwards, and the reason.
fn continuation(model: &Model, params: GenerationParams) -> (Vec<u32>, usize, Option<StopReason>) {
    let mut session = prompted(model);
    let before = session.tokens().len();
    let mut generator = session.generate(params).unwrap();
    let ids = generator.by_ref().map(|token| token.unwrap().id).collect();
    let reason = generator.stop_reason();
    (ids, session.tokens().len() - before, reason)
}

#[test]
fn a_generation_ends_at_an_end_token_unless_it_is_ignored() {
    let (plain, ..) = continuation(&model(), greedy(40));
    assert_eq!(plain.len(), 40, "the text ended by itself");
    // The same model, where a token that it will choose ends texts.
    let end = plain[20];
    let bytes = stories_with(&[("tokenizer.ggml.eos_token_id", end)]);
    let model = Model::from_bytes("ends early", bytes).threads(2).load().unwrap();

    let first = plain.iter().position(|&id| id == end).unwrap();
    let (ids, kept, reason) = continuation(&model, greedy(40));
    assert_eq!((&ids[..], reason), (&plain[..=first], Some(StopReason::EndOfText)));
    assert_eq!(kept, first, "the end token is not part of the context");
    let (ids, kept, reason) = continuation(&model, greedy_past_ends(40));
    assert_eq!((ids, kept, reason), (plain, 40, Some(StopReason::MaxTokens)));
}

/// What a Hugging Face folder says of its ends.
#[test]
fn ends_are_read_from_generation_config_json() {
    let Some(assets) = assets() else { return };
    let folder = assets.join("models/stories260K/derived/hf-llama");
    let plain = continued(&Model::open(&folder).unwrap(), &[1], greedy(40));
    let end = plain[20];
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = format!("{{\"eos_token_id\": [2, {end}]}}");
    std::fs::write(copy.path().join("generation_config.json"), config).unwrap();
    let first = plain.iter().position(|&id| id == end).unwrap();
    let ids = continued(&Model::open(copy.path()).unwrap(), &[1], greedy(40));
    assert_eq!(ids, plain[..=first]);
}

#[test]
fn the_end_of_the_context_is_one_error() {
    let model = model();
    let options = SessionOptions::default().context(20);
    let mut session = model.session_with(options).unwrap();
    let error = session.push(&[1; 21]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert!(error.to_string().contains("21") && error.to_string().contains("20"), "{error}");
    assert!(session.tokens().is_empty());

    session.push(&ids(13, VOCABULARY)).unwrap();
    let mut generator = session.generate(greedy_past_ends(1000)).unwrap();
    let items: Vec<_> = generator.by_ref().collect();
    // 7 fit; the logits after the last of them give one more.
    assert_eq!(items.len(), 9);
    assert!(items[..8].iter().all(Result::is_ok));
    assert_eq!(items[8].as_ref().unwrap_err().kind(), ErrorKind::ContextFull);
    assert_eq!(generator.stop_reason(), Some(StopReason::ContextFull));
    assert!(generator.next().is_none());
    assert!(model.session_with(SessionOptions::default().context(0)).is_err());
    assert!(model.session_with(SessionOptions::default().context(257)).is_err());
}

#[test]
fn bad_input_is_refused() {
    let model = model();
    let mut session = model.session().unwrap();
    assert_eq!(session.generate(greedy(1)).err().unwrap().kind(), ErrorKind::Input);
    assert_eq!(session.push(&[]).unwrap_err().kind(), ErrorKind::Input);
    let error = session.push(&[1, 2048]).unwrap_err();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("2048"), "{error}");
    assert!(session.logits().is_none() && session.tokens().is_empty());
    let refused = |loader: goldcrest::Loader| loader.load().unwrap_err().kind();
    let loader = || Model::loader(stories());
    assert_eq!(refused(loader().threads(0)), ErrorKind::Input);
    assert_eq!(refused(loader().context(0)), ErrorKind::Input);
    assert_eq!(refused(loader().context(257)), ErrorKind::Input);
    assert_eq!(refused(loader().quantize(Format::Q5_0)), ErrorKind::Input);
    for &isa in Isa::ALL.iter().filter(|isa| !isa.is_supported()) {
        assert_eq!(refused(loader().isa(isa)), ErrorKind::Unsupported, "{isa}");
    }
}

#[test]
fn another_thread_cancels() {
    let model = model();
    let mut session = prompted(&model);
    let len = session.tokens().len();
    let cancel = CancelToken::new();
    let params = greedy_past_ends(200).cancel(&cancel);
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        cancel.cancel();
    });
    let mut rounds = 0;
    let error = loop {
        session.truncate(len);
        match session.generate(params.clone()).unwrap().find_map(Result::err) {
            Some(error) => break error,
            None => rounds += 1,
        }
        assert!(rounds < 10_000, "the request was not seen");
    };
    helper.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // The session goes on as if nothing had happened.
    session.truncate(len);
    let after: Vec<u32> = session.generate(greedy(9)).unwrap().map(|t| t.unwrap().id).collect();
    assert_eq!(after, continued(&model, &prompt(&model), greedy(9)));
    // A prompt is given up too, and leaves what ran before.
    let cancel = CancelToken::new();
    cancel.cancel();
    let error = session.push_cancellable(&[5; 40], &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    session.push(&[5; 40]).unwrap();
}

#[test]
fn a_seed_repeats_and_sessions_take_turns() {
    let model = model();
    let run = |seed| told(&model, PROMPT, common::random(seed, 60));
    let alone = [run(1), run(2)];
    assert_ne!(alone[0], alone[1]);
    let together = std::thread::scope(|scope| {
        let threads = [1, 2].map(|seed| scope.spawn(move || run(seed)));
        threads.map(|thread| thread.join().unwrap())
    });
    assert_eq!(alone, together);
}

#[test]
fn logprobs_are_of_the_untempered_softmax() {
    let model = model();
    let mut session = prompted(&model);
    let logits = session.logits().unwrap().to_vec();
    let Token { id, logprob, .. } = session.generate(greedy(1)).unwrap().next().unwrap().unwrap();
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let want = f64::from(logits[id as usize]) - sum.ln();
    assert!((f64::from(logprob) - want).abs() < 1e-5);
    assert!(logits.iter().all(|&x| x <= logits[id as usize]));
}

/// A session that was cut back is one that never went further.
#[test]
fn what_is_truncated_leaves_no_trace() {
    let model = long_stories(512).threads(2).load().unwrap();
    let text = ids(400, VOCABULARY);
    let want = logits(&model, &text);
    let row = |i: usize| bits(&want[i * VOCABULARY..][..VOCABULARY]);
    let mut session = model.session().unwrap();
    // Across the bounds of a batch of 256, and of attention's chunks.
    for (from, to) in [(0, 400), (399, 400), (256, 257), (255, 300), (7, 262), (1, 2), (0, 40)] {
        session.truncate(from);
        assert_eq!(session.tokens(), &text[..from]);
        assert!(session.logits().is_none(), "{from}");
        session.push(&text[from..to]).unwrap();
        assert!(bits(session.logits().unwrap()) == row(to - 1), "{from} to {to}");
    }
    session.truncate(1000);
    assert_eq!(session.tokens(), &text[..40], "there is nothing to cut off");
    session.truncate(20);
    let all = session.logits_all(&text[20..30]).unwrap();
    assert!(bits(&all) == bits(&want[20 * VOCABULARY..30 * VOCABULARY]));
    session.clear();
    assert!(session.tokens().is_empty() && session.logits().is_none());
}

/// The logits after a generated token, too, are those of the text as a prompt.
#[test]
fn a_generation_is_a_prompt_afterwards() {
    let model = model();
    let mut session = prompted(&model);
    let made: Vec<u32> = session.generate(greedy(30)).unwrap().map(|t| t.unwrap().id).collect();
    session.push(&made[..1]).unwrap();
    let text = [&prompt(&model)[..], &made, &made[..1]].concat();
    assert_eq!(session.tokens(), text);
    let want = logits(&model, &text);
    assert!(bits(session.logits().unwrap()) == bits(&want[want.len() - VOCABULARY..]));
}

/// 400 positions: two batches of prefill, attention in chunks, heads that three threads share
/// unevenly.
#[test]
fn threads_and_batches_do_not_change_a_bit() {
    let types = [GgmlType::Q4_0, GgmlType::Q4_K, GgmlType::F32];
    let mut models: Vec<(String, Vec<u8>)> =
        types.iter().map(|&ty| (ty.to_string(), random(ty).build())).collect();
    models.push(("stories".into(), stories_with(&[("llama.context_length", 512)])));
    for (name, file) in models {
        let mut want: Option<Vec<f32>> = None;
        for threads in 1..=4 {
            let model = Model::from_bytes(&name, file.clone()).threads(threads).load().unwrap();
            let vocab = vocabulary(&model);
            let text = ids(400, vocab);
            let mut session = model.session().unwrap();
            let all = session.logits_all(&text).unwrap();
            assert!(want.get_or_insert_with(|| all.clone()) == &all, "{name}, {threads} threads");
            session.clear();
            for (i, &id) in text.iter().enumerate() {
                session.push(&[id]).unwrap();
                let row = &all[i * vocab..][..vocab];
                assert!(session.logits() == Some(row), "{name}, {threads} threads, token {i}");
            }
        }
    }
}

#[test]
fn quantised_weights_give_the_same_bits_on_every_instruction_set() {
    for ty in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q5_1, GgmlType::Q4_K, GgmlType::Q6_K] {
        let file = random(ty).build();
        let text = ids(40, 384);
        let mut want: Option<Vec<f32>> = None;
        for isa in Isa::supported() {
            let of = |deterministic| {
                let loader = Model::from_bytes("random", file.clone()).isa(isa).threads(2);
                let model = loader.deterministic(deterministic).load().unwrap();
                assert_eq!(model.isa(), isa);
                logits(&model, &text)
            };
            let all = of(true);
            assert!(bits(want.get_or_insert_with(|| all.clone())) == bits(&all), "{ty} {isa}");
            // Otherwise attention may be fused: the codes of a few activations change with it.
            let near = of(false).iter().zip(&all).all(|(a, b)| (a - b).abs() < 0.1);
            assert!(near, "{ty} {isa}, fused");
        }
    }
}

/// An untied embedding, which stays in the file's own rows, and a tied one.
#[test]
fn reading_instead_of_mapping_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let untied = dir.path().join("random.gguf");
    std::fs::write(&untied, random(GgmlType::F32).build()).unwrap();
    for (path, has_tokenizer) in [(untied, false), (stories(), true)] {
        let of = |mmap| {
            let model = Model::loader(&path).mmap(mmap).load().unwrap();
            assert_eq!(model.tokenizer().is_ok(), has_tokenizer);
            logits(&model, &[1, 2, 3])
        };
        assert_eq!(bits(&of(true)), bits(&of(false)), "{}", path.display());
    }
}
