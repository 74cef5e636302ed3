//! What ends a generation, what it leaves behind, and who may hold it: on the model in the crate.
#![cfg(feature = "embedded-model")]

use std::sync::LazyLock;
use std::sync::mpsc::{channel, sync_channel};

use goldcrest::{
    CancelToken, Error, ErrorKind, GenerationParams, Generator, LogitsProcessor, Model, Sampler,
    SamplingParams, Session, SessionOptions, StopReason,
};

static MODEL: LazyLock<Model> = LazyLock::new(|| Model::embedded().threads(2).load().unwrap());
const PROMPT: &str = "Once upon a time";

/// The ids of a text in the middle of one.
fn encode(text: &str) -> Vec<u32> {
    let tokenizer = MODEL.tokenizer().unwrap();
    let mut ids = tokenizer.encode(text).unwrap();
    ids.retain(|&id| !tokenizer.is_special(id));
    ids
}

fn prompt() -> Vec<u32> {
    MODEL.tokenizer().unwrap().encode(PROMPT).unwrap()
}

fn session() -> Session {
    let mut session = MODEL.session().unwrap();
    session.push(&prompt()).unwrap();
    session
}

/// The texts up to the end or the first error, and that error.
fn texts<S>(generator: &mut Generator<S>) -> (String, Option<ErrorKind>)
where
    Generator<S>: Iterator<Item = Result<goldcrest::Token, Error>>,
{
    let (mut all, mut failure) = (String::new(), None);
    for token in generator {
        match token {
            Ok(token) => all += &token.text,
            Err(error) => failure = Some(error.kind()),
        }
    }
    (all, failure)
}

/// Makes a generation choose these tokens, whatever the model thinks.
fn script(ids: Vec<u32>) -> impl LogitsProcessor {
    let mut ids = ids.into_iter();
    move |_: &[u32], logits: &mut [f32]| {
        let id = ids.next().expect("the script goes on");
        logits.fill(f32::NEG_INFINITY);
        logits[id as usize] = 0.0;
    }
}

#[test]
fn control_tokens_are_stop_strings() {
    let end = MODEL.tokenizer().unwrap().eos().unwrap();
    let name = MODEL.tokenizer().unwrap().id_to_token(end).unwrap();
    let mut ids = encode(" there was a king");
    ids.push(end);
    ids.extend(encode(" and a queen"));
    let run = |stop: &str| {
        let mut session = session();
        let params = GenerationParams::greedy().max_tokens(ids.len()).ignore_eos(true).stop([stop]);
        let generator = session.generate(params).unwrap();
        let mut generator = generator.with_processor(script(ids.clone()));
        let text = texts(&mut generator);
        assert_eq!((text.1, generator.take_held()), (None, String::new()));
        (text.0, generator.stop_reason().unwrap())
    };
    let stopped = |text: &str| (text.to_owned(), StopReason::StopString);
    assert_eq!(run(&name), stopped(" there was a king"));
    assert_eq!(run(&format!(" king{name}")), stopped(" there was a"));
    assert_eq!(run(&format!("{name} and a q")), stopped(" there was a king"));
    assert_eq!(run("king and"), stopped(" there was a "));
    let whole = (" there was a king and a queen".to_owned(), StopReason::MaxTokens);
    assert_eq!(run(&format!("{name} never")), whole);
    assert_eq!(run(&name[..name.len() - 1]), whole);
}

#[test]
fn a_late_request_stops_nothing_else() {
    let mut session = session();
    let cancel = CancelToken::new();
    let params = GenerationParams::greedy().max_tokens(4);
    let first = texts(&mut session.generate(params.clone().cancel(&cancel)).unwrap());
    assert_eq!(first.1, None);
    cancel.cancel();
    session.push(&encode(" and")).unwrap();
    let second = texts(&mut session.generate(params.clone()).unwrap());
    assert_eq!(second.1, None);
    // What it was made for it stops whenever it comes.
    let mut generator = session.generate(params.cancel(&cancel)).unwrap();
    assert_eq!(generator.next().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(generator.stop_reason(), Some(StopReason::Cancelled));
    assert!(generator.next().is_none() && cancel.is_cancelled());
    let tokens = session.tokens().to_vec();
    let error = session.push_cancellable(&encode(" the"), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(tokens.starts_with(session.tokens()));
    session.push_cancellable(&encode(" the"), &CancelToken::new()).unwrap();
}

/// However a generation ends, its texts and what was held back are the whole text.
#[test]
fn text_that_was_held_back_is_not_lost() {
    const TOKENS: usize = 12;
    let params = GenerationParams::greedy().ignore_eos(true);
    let (plain, _) = texts(&mut session().generate(params.clone().max_tokens(TOKENS)).unwrap());
    // All of the text may be the start of the stop string.
    let params = params.stop([format!("{plain} never")]);
    let after = |what: fn(&CancelToken, &mut [f32])| {
        let cancel = CancelToken::new();
        let (token, mut left) = (cancel.clone(), TOKENS);
        let hook = move |_: &[u32], logits: &mut [f32]| match left {
            0 => what(&token, logits),
            _ => left -= 1,
        };
        let mut session = session();
        let generator = session.generate(params.clone().cancel(&cancel)).unwrap();
        let mut generator = generator.with_processor(hook);
        let (text, error) = texts(&mut generator);
        (text + &generator.take_held(), error, generator.stop_reason())
    };
    let (text, error, reason) = after(|_, logits| logits.fill(f32::NAN));
    assert_eq!((&text, error), (&plain, Some(ErrorKind::Input)));
    assert_eq!(reason, Some(StopReason::Failed));
    // The token that is chosen while the request comes is still yielded.
    let (text, error, reason) = after(|cancel, _| cancel.cancel());
    assert!(text.starts_with(&plain) && text.len() > plain.len(), "{text}");
    assert_eq!((error, reason), (Some(ErrorKind::Cancelled), Some(StopReason::Cancelled)));

    let context = prompt().len() + TOKENS - 1;
    let mut small = MODEL.session_with(SessionOptions::default().context(context)).unwrap();
    small.push(&prompt()).unwrap();
    let mut generator = small.generate(params.clone()).unwrap();
    assert_eq!(texts(&mut generator), (plain.clone(), Some(ErrorKind::ContextFull)));
    assert_eq!(generator.take_held(), "");

    // A caller that breaks off, and one that goes on after it has taken what was held.
    let mut session = session();
    let mut generator = session.generate(params.max_tokens(TOKENS)).unwrap();
    for _ in 0..TOKENS / 2 {
        assert_eq!(generator.next().unwrap().unwrap().text, "");
    }
    let half = generator.take_held();
    assert!(!half.is_empty() && plain.starts_with(&half), "{half}");
    assert_eq!(generator.take_held(), "");
    assert_eq!(half + &texts(&mut generator).0, plain);
}

#[test]
fn the_penalty_sees_as_far_as_it_is_told() {
    let tell = |window: Option<usize>| {
        let sampling = SamplingParams::greedy().repeat_penalty(1e6).repeat_last_n(window);
        let params = GenerationParams::from(sampling).max_tokens(150).ignore_eos(true);
        let mut session = session();
        let ids: Vec<u32> = session.generate(params).unwrap().map(|t| t.unwrap().id).collect();
        let all = session.tokens();
        let fresh = |at: usize| !all[..at].contains(&all[at]);
        (ids, (0..all.len()).all(fresh))
    };
    let (context, no_repeats) = tell(None);
    assert!(no_repeats);
    assert_eq!(tell(Some(MODEL.context())).0, context);
    assert!(!tell(Some(8)).1);
    let params = GenerationParams::greedy().max_tokens(150).ignore_eos(true);
    let plain = session().generate(params).unwrap().map(|token| token.unwrap().id).collect();
    assert_eq!(tell(Some(0)), (plain, false));
}

#[test]
fn a_generator_may_own_its_session_and_go_to_a_thread() {
    let params = GenerationParams::from(SamplingParams::default().seed(5)).max_tokens(30);
    let mut borrowed = session();
    let (text, _) = texts(&mut borrowed.generate(params.clone()).unwrap());

    let mut generator = session().into_generator(params).unwrap();
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        for token in generator.by_ref() {
            sender.send(token.unwrap().text).unwrap();
        }
        (generator.stop_reason(), generator.into_session())
    });
    assert_eq!(receiver.iter().collect::<String>(), text);
    let (reason, mut session) = thread.join().unwrap();
    assert_eq!(reason, Some(StopReason::MaxTokens));
    assert_eq!(session.tokens(), borrowed.tokens());
    session.push(&encode(" and")).unwrap();

    // A refusal gives the session back, too.
    let tokens = session.tokens().to_vec();
    let refused = session.into_generator(SamplingParams::default().top_p(2.0)).unwrap_err();
    assert_eq!(refused.error().kind(), ErrorKind::Input);
    assert_eq!(refused.into_session().tokens(), tokens);
}

#[test]
fn a_sampler_alone_chooses_what_a_generation_does() {
    let sampling = SamplingParams::default().seed(11).repeat_penalty(1.3);
    let params = GenerationParams::from(sampling.clone()).max_tokens(20).ignore_eos(true);
    let (sender, watched) = channel();
    let watch = move |tokens: &[u32], _: &mut [f32]| sender.send(tokens.to_vec()).unwrap();
    let mut of_generator = session();
    let generator = of_generator.generate(params).unwrap().with_processor(watch);
    let want: Vec<u32> = generator.map(|token| token.unwrap().id).collect();

    let mut session = session();
    let mut sampler = Sampler::new(sampling, MODEL.config().vocab_size()).unwrap();
    session.tokens().iter().for_each(|&id| sampler.accept(id));
    for id in want {
        assert_eq!(watched.recv().unwrap(), session.tokens());
        assert_eq!(sampler.choose(session.logits().unwrap()).unwrap().id, id);
        sampler.accept(id);
        session.push(&[id]).unwrap();
    }
    assert_eq!(sampler.tokens(), session.tokens());
}

#[test]
fn failures_leave_the_context_as_it_was() {
    let model = Model::embedded().threads(2).load().unwrap();
    let mut session = model.session().unwrap();
    session.push(&[5, 7, 9, 11]).unwrap();
    let want = session.logits().unwrap().to_vec();
    let cancelled = CancelToken::new();
    cancelled.cancel();
    for _ in 0..3 {
        let error = session.push_cancellable(&[5; 40], &cancelled).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(session.tokens(), [5, 7, 9, 11]);
    }
    session.truncate(3);
    session.push(&[11]).unwrap();
    assert_eq!(session.logits().unwrap(), want);
}

/// Sessions on threads share passes as they happen to meet; no text and no bit shows it.
#[test]
fn sessions_together_tell_what_each_tells_alone() {
    let model = Model::embedded().threads(2).load().unwrap();
    let tell = &|seed: u64| {
        let mut session = model.session().unwrap();
        let prompt: Vec<u32> = (0..1 + seed as u32 * 13 % 60).map(|i| 300 + i * 7).collect();
        session.push(&prompt).unwrap();
        let sampling = SamplingParams::default().seed(seed);
        let params = GenerationParams::from(sampling).max_tokens(40).ignore_eos(true);
        let tokens = session.generate(params).unwrap().map(Result::unwrap);
        tokens.map(|token| (token.id, token.logprob.to_bits())).collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..12).map(tell).collect();
    let together = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|seed| scope.spawn(move || tell(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(together == alone);
}

#[test]
fn loading_can_be_cancelled() {
    let cancel = CancelToken::new();
    let loader = || Model::embedded().cancel(cancel.clone());
    loader().load().unwrap();
    cancel.cancel();
    assert_eq!(loader().load().unwrap_err().kind(), ErrorKind::Cancelled);
    let dir = tempfile::tempdir().unwrap();
    let error = loader().pack(dir.path().join("packed")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}
