//! Models with recurrent states: the same bits however a prompt is cut and whoever is beside it, and
//! ways back to save points.

mod common;

use std::path::{Path, PathBuf};

use common::{assets, bits, random};
use goldcrest::{CancelToken, ErrorKind, Isa, KvType, Model, Session};

const CASES: &[&str] = &["qwen3_5", "lfm2"];

/// Made by tests/fixtures/make.py, for everyone.
const OWN: &[&str] = &["falcon_h1", "granitemoehybrid", "nemotron_h", "qwen3_next"];

/// Their folders.
fn models() -> impl Iterator<Item = PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let golden = assets().map(|assets| assets.join("golden"));
    let given =
        golden.into_iter().flat_map(|golden| CASES.iter().map(move |case| golden.join(case)));
    OWN.iter().map(move |case| own.join(case)).chain(given)
}

fn load(path: &PathBuf, isa: Isa) -> Model {
    let loader = Model::loader(path).threads(2).kv(KvType::F32).deterministic(true);
    loader.isa(isa).load().unwrap_or_else(|e| panic!("{e}"))
}

fn text(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 3 + (i * 37 + seed * 101 + i * i % 11) % 90).collect()
}

/// The bits of the logits after each token, from an empty context.
fn whole(model: &Model, ids: &[u32]) -> Vec<u32> {
    bits(&model.session().unwrap().logits_all(ids).unwrap())
}

#[test]
fn neither_cut_nor_tier_nor_neighbour_shows() {
    let ids = text(1, 100);
    for path in models() {
        let case = path.display();
        let want = whole(&load(&path, Isa::Portable), &ids);
        for isa in Isa::supported() {
            let model = load(&path, isa);
            for piece in [1, 7, 64, ids.len()] {
                let mut session = model.session().unwrap();
                let logits = ids.chunks(piece).map(|ids| session.logits_all(ids).unwrap());
                let got = bits(&logits.flatten().collect::<Vec<_>>());
                assert!(got == want, "{case} on {isa}, pieces of {piece}");
            }
            // Strangers come and go beside it.
            let (model, ids) = (&model, &ids);
            std::thread::scope(|scope| {
                for stranger in 2..5 {
                    scope.spawn(move || whole(model, &text(stranger, 11 * stranger as usize)));
                }
                let beside = scope.spawn(move || {
                    let mut session = model.session().unwrap();
                    let logits = ids.chunks(3).map(|ids| session.logits_all(ids).unwrap());
                    bits(&logits.flatten().collect::<Vec<_>>())
                });
                assert!(beside.join().unwrap() == want, "{case} on {isa}, beside strangers");
            });
        }
    }
}

/// The tokens and log-probabilities of a continuation.
fn continued(session: &mut Session) -> Vec<(u32, u32)> {
    let tokens = session.generate(random(7, 12)).unwrap();
    tokens.map(|token| token.map(|token| (token.id, token.logprob.to_bits())).unwrap()).collect()
}

#[test]
fn a_save_point_is_a_way_back() {
    let (beginning, question, other) = (text(1, 30), text(2, 20), text(3, 9));
    for path in models() {
        let (case, model) = (path.display(), load(&path, Isa::best()));
        let mut session = model.session().unwrap();
        assert_eq!(session.save().unwrap_err().kind(), ErrorKind::Input, "nothing to save");
        session.push(&beginning).unwrap();
        let logits = bits(session.logits().unwrap());
        session.save().unwrap();
        session.push(&question).unwrap();
        let answer = continued(&mut session);

        // There and back: the same logits at once, the same answer after the same question.
        session.rewind(30).unwrap();
        assert_eq!(bits(session.logits().unwrap()), logits, "{case}");
        session.push(&other).unwrap();
        continued(&mut session);
        session.rewind(30).unwrap();
        session.push(&question).unwrap();
        assert_eq!(continued(&mut session), answer, "{case}");

        // A second one, after a token that is not run yet; cutting before it gives it up.
        session.save().unwrap();
        assert_eq!(session.save_points().collect::<Vec<_>>(), [30, 62]);
        session.truncate(61);
        assert_eq!(session.save_points().collect::<Vec<_>>(), [30]);
        assert!(session.forget(30) && !session.forget(30));
    }
}

#[test]
fn a_rewind_that_cannot_be_done_says_so() {
    let (ids, more) = (text(1, 50), text(2, 5));
    for path in models() {
        let (case, model) = (path.display(), load(&path, Isa::best()));
        let want = whole(&model, &[&ids[..40], &more].concat());
        let mut session = model.session().unwrap();
        session.push(&ids[..20]).unwrap();
        session.save().unwrap();
        session.push(&ids[20..]).unwrap();
        let error = session.rewind(40).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        let message = error.to_string();
        assert!(message.contains("recurrent") && message.contains("save points: 20"), "{message}");
        assert_eq!(session.rewind(51).unwrap_err().kind(), ErrorKind::Input);
        assert_eq!(session.tokens(), ids, "{case}: a refusal changes nothing");

        // Cutting goes there all the same: from the save point, and without one from the beginning.
        for forget in [false, true] {
            if forget {
                session.forget(20);
            }
            session.truncate(40);
            assert!(session.logits().is_none());
            session.push(&more).unwrap();
            let vocab = session.logits().unwrap().len();
            let got = bits(session.logits().unwrap());
            assert_eq!(got, want[want.len() - vocab..], "{case}, forgotten: {forget}");
            session.truncate(40);
            session.push(&ids[40..]).unwrap();
        }
        session.rewind(0).unwrap();
        assert!(session.tokens().is_empty());
    }
}

/// What fails leaves the state as it was, without running anything again.
#[test]
fn a_push_that_is_cancelled_changes_nothing() {
    let ids = text(1, 40);
    for path in models() {
        let (case, model) = (path.display(), load(&path, Isa::best()));
        let want = whole(&model, &ids);
        let mut session = model.session().unwrap();
        session.push(&ids[..30]).unwrap();
        let cancelled = CancelToken::new();
        cancelled.cancel();
        let error = session.push_cancellable(&text(9, 20), &cancelled).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(session.tokens(), &ids[..30]);
        let ran = session.stats().prompt_tokens;
        session.push(&ids[30..]).unwrap();
        assert_eq!(session.stats().prompt_tokens, ran + 10, "{case}: nothing ran again");
        let got = bits(session.logits().unwrap());
        assert_eq!(got, want[want.len() - got.len()..], "{case}");
    }
}
