//! Sessions and generations: how they end, and what does not change their results.

mod common;

use std::path::PathBuf;
use std::time::Duration;

use common::assets;
use goldcrest::{
    CancelToken, ErrorKind, Format, GenerationParams, Isa, Model, SamplingParams, SessionOptions,
    StopReason,
};

const PROMPT: &[u32] = &[1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421];

fn file(name: &str) -> Option<PathBuf> {
    assets().map(|assets| assets.join("models/stories260K/derived").join(name))
}

fn model() -> Option<Model> {
    Some(Model::loader(file("stories260K-F32.gguf")?).threads(2).load().unwrap())
}

fn greedy(max_tokens: usize) -> GenerationParams {
    GenerationParams::greedy().max_tokens(max_tokens)
}

/// Text and reason of a generation after the beginning-of-text token.
fn tell(model: &Model, params: GenerationParams) -> (String, Option<StopReason>) {
    let mut session = model.session().unwrap();
    session.push(&[1]).unwrap();
    let mut generator = session.generate(params).unwrap();
    let text = generator.by_ref().map(|token| token.unwrap().text).collect();
    (text, generator.stop_reason())
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let Some(model) = model() else { return };
    let stop = vec!["named Lily".to_owned(), "nowhere".to_owned()];
    let (text, reason) = tell(&model, greedy(100).stop(stop));
    assert_eq!(text, "Once upon a time, there was a little girl ");
    assert_eq!(reason, Some(StopReason::StopString));
    // Text that was held back comes out when the generation ends otherwise.
    let (plain, _) = tell(&model, greedy(12));
    let tail = plain.chars().last().unwrap();
    let stop = vec![format!("{tail}never")];
    let (held, reason) = tell(&model, greedy(12).stop(stop));
    assert_eq!((held, reason), (plain, Some(StopReason::MaxTokens)));
}

#[test]
fn a_generation_ends_at_an_end_token_unless_it_is_ignored() {
    let Some(folder) = file("hf-llama") else { return };
    let plain: Vec<u32> = continuation(&Model::open(&folder).unwrap(), greedy(40)).0;
    // The same model, where a token that it will choose ends texts.
    let end = plain[20];
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let config = format!("{{\"eos_token_id\": [2, {end}]}}");
    std::fs::write(copy.path().join("generation_config.json"), config).unwrap();
    let model = Model::open(copy.path()).unwrap();

    let first = plain.iter().position(|&id| id == end).unwrap();
    let (ids, kept, reason) = continuation(&model, greedy(40));
    assert_eq!((&ids[..], reason), (&plain[..=first], Some(StopReason::EndOfText)));
    assert_eq!(kept, 1 + first, "the end token is not part of the context");
    let ignoring = greedy(40).ignore_eos(true);
    let (ids, kept, reason) = continuation(&model, ignoring);
    assert_eq!((ids, kept, reason), (plain, 41, Some(StopReason::MaxTokens)));
}

/// Ids after the beginning-of-text token, tokens in the context afterwards, and the reason.
fn continuation(model: &Model, params: GenerationParams) -> (Vec<u32>, usize, Option<StopReason>) {
    let mut session = model.session().unwrap();
    session.push(&[1]).unwrap();
    let mut generator = session.generate(params).unwrap();
    let ids = generator.by_ref().map(|token| token.unwrap().id).collect();
    let reason = generator.stop_reason();
    (ids, session.tokens().len(), reason)
}

#[test]
fn the_end_of_the_context_is_one_error() {
    let Some(model) = model() else { return };
    let options = SessionOptions::default().context(20);
    let mut session = model.session_with(options).unwrap();
    let error = session.push(&[1; 21]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);
    assert!(error.to_string().contains("21") && error.to_string().contains("20"), "{error}");
    assert!(session.tokens().is_empty());

    session.push(PROMPT).unwrap();
    let mut generator = session.generate(greedy(1000)).unwrap();
    let items: Vec<_> = generator.by_ref().collect();
    // 7 fit; the logits after the last of them give one more.
    assert_eq!(items.len(), 9);
    assert!(items[..8].iter().all(Result::is_ok));
    assert_eq!(items[8].as_ref().unwrap_err().kind(), ErrorKind::ContextFull);
    assert_eq!(generator.stop_reason(), Some(StopReason::ContextFull));
    assert!(generator.next().is_none());
    assert!(model.session_with(SessionOptions::default().context(0)).is_err());
}

#[test]
fn bad_input_is_refused() {
    let Some(model) = model() else { return };
    let mut session = model.session().unwrap();
    assert_eq!(session.generate(greedy(1)).err().unwrap().kind(), ErrorKind::Input);
    assert_eq!(session.push(&[]).unwrap_err().kind(), ErrorKind::Input);
    let error = session.push(&[1, 512]).unwrap_err();
    assert!(error.kind() == ErrorKind::Input && error.to_string().contains("512"), "{error}");
    assert!(session.logits().is_none());
    let Some(path) = file("stories260K-F32.gguf") else { return };
    let refused = |loader: goldcrest::Loader| loader.load().unwrap_err().kind();
    assert_eq!(refused(Model::loader(&path).threads(0)), ErrorKind::Input);
    assert_eq!(refused(Model::loader(&path).context(513)), ErrorKind::Input);
    assert_eq!(refused(Model::loader(&path).quantize(Format::Q5_0)), ErrorKind::Input);
    if let Some(&isa) = Isa::ALL.iter().find(|isa| !isa.is_supported()) {
        assert_eq!(refused(Model::loader(&path).isa(isa)), ErrorKind::Unsupported);
    }
}

#[test]
fn another_thread_cancels() {
    let Some(model) = model() else { return };
    let mut session = model.session().unwrap();
    session.push(PROMPT).unwrap();
    let token = CancelToken::new();
    let cancel = token.clone();
    let helper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        cancel.cancel();
    });
    let mut rounds = 0;
    let error = loop {
        session.truncate(PROMPT.len());
        match session.generate(greedy(300).cancel(&token)).unwrap().find_map(Result::err) {
            Some(error) => break error,
            None => rounds += 1,
        }
        assert!(rounds < 10_000, "the request was not seen");
    };
    helper.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    // The session goes on as if nothing had happened.
    session.truncate(PROMPT.len());
    let after: Vec<u32> = session.generate(greedy(9)).unwrap().map(|t| t.unwrap().id).collect();
    session.clear();
    session.push(PROMPT).unwrap();
    let fresh: Vec<u32> = session.generate(greedy(9)).unwrap().map(|t| t.unwrap().id).collect();
    assert_eq!(after, fresh);
    // A prompt is given up too, and leaves what ran before.
    let error = session.push_cancellable(&[5; 40], &token).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    session.push(&[5; 40]).unwrap();
}

#[test]
fn a_seed_repeats_and_sessions_take_turns() {
    let Some(model) = model() else { return };
    let run = |seed| {
        let sampling = SamplingParams::default().seed(seed);
        tell(&model, GenerationParams::from(sampling).max_tokens(60)).0
    };
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
    let Some(model) = model() else { return };
    let mut session = model.session().unwrap();
    session.push(PROMPT).unwrap();
    let logits = session.logits().unwrap().to_vec();
    let token = session.generate(greedy(1)).unwrap().next().unwrap().unwrap();
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    let want = f64::from(logits[token.id as usize]) - sum.ln();
    assert!((f64::from(token.logprob) - want).abs() < 1e-5);
    assert!(logits.iter().all(|&x| x <= logits[token.id as usize]));
}

/// 400 positions: two batches of prefill, attention in chunks, heads that three threads share
/// unevenly.
fn long_text() -> Vec<u32> {
    (0..400).map(|i| if i == 0 { 1 } else { 3 + (i * i * 7 + i * 13) % 509 }).collect()
}

#[test]
fn threads_and_batches_do_not_change_a_bit() {
    let text = long_text();
    for name in ["stories260K-Q8_0.gguf", "stories260K-Q4_0.gguf", "stories260K-F32.gguf"] {
        let Some(path) = file(name) else { return };
        let mut want: Option<Vec<f32>> = None;
        for threads in 1..=4 {
            let model = Model::loader(&path).threads(threads).load().unwrap();
            let mut session = model.session().unwrap();
            let all = session.logits_all(&text).unwrap();
            assert!(want.get_or_insert_with(|| all.clone()) == &all, "{name}, {threads} threads");
            let vocab = model.config().vocab_size;
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
    // The widths of this model are whole blocks, so that no tensor is left in half floats.
    let Some(assets) = assets() else { return };
    let path = assets.join("golden/llama_256/gguf/llama_256-Q4_0.gguf");
    let text: Vec<u32> = long_text()[..40].iter().map(|id| id % 384).collect();
    let mut want: Option<Vec<f32>> = None;
    for isa in Isa::supported() {
        let logits = |deterministic| {
            let loader = Model::loader(&path).isa(isa).threads(2).deterministic(deterministic);
            let model = loader.load().unwrap();
            assert_eq!(model.isa(), isa);
            model.session().unwrap().logits_all(&text).unwrap()
        };
        let all = logits(true);
        assert!(want.get_or_insert_with(|| all.clone()) == &all, "{isa}");
        // Otherwise attention may be fused: the codes of a few activations change with it.
        let near = logits(false).iter().zip(&all).all(|(a, b)| (a - b).abs() < 0.05);
        assert!(near, "{isa}, fused");
    }
}

#[test]
fn reading_instead_of_mapping_changes_nothing() {
    let Some(assets) = assets() else { return };
    // An untied embedding, which stays in the file's own rows.
    let path = assets.join("golden/llama/llama-F32.gguf");
    let logits = |mmap| {
        let model = Model::loader(&path).mmap(mmap).load().unwrap();
        assert!(model.tokenizer().is_err());
        model.session().unwrap().logits_all(&[1, 2, 3]).unwrap()
    };
    assert_eq!(logits(true), logits(false));
}
