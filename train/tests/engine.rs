//! What is exported means the same to the engine.

mod common;

use std::path::Path;

use common::{Text, corpus, dimensions};
use goldcrest::synthetic::Mixture;
use goldcrest::{EncodeOptions, KvType};
use goldcrest_train::corpus::stories;
use goldcrest_train::model::Model;
use goldcrest_train::{evaluate, export, sample};

const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

fn open(path: &Path) -> goldcrest::Model {
    goldcrest::Model::loader(path).threads(1).kv(KvType::F32).load().unwrap()
}

/// The model as a GGUF file of floats and as a folder.
fn exported(model: &Model, text: &Text, dir: &Path) -> [goldcrest::Model; 2] {
    let (file, folder) = (dir.join("model.gguf"), dir.join("model"));
    let mixture = Mixture::by_name("f32").unwrap();
    export::gguf(model, &text.tokenizer, mixture, "a test", &file).unwrap();
    export::folder(model, &text.tokenizer, &folder).unwrap();
    [open(&file), open(&folder)]
}

#[test]
fn logits_agree() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    // Larger weights than a training begins with, so that attention is not all but even.
    let model = Model::with_deviation(&dimensions(), 5, 0.15).unwrap();
    let ids: Vec<u32> = (0..30).map(|i| i * 37 % 512).collect();
    let want = model.logits(&ids).unwrap();
    let greatest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    assert!(greatest > 1.0, "{greatest}");
    for engine in exported(&model, &text, dir.path()) {
        let got = engine.session().unwrap().logits_all(&ids).unwrap();
        assert_eq!(got.len(), want.len());
        let error = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error < 1e-3, "{error}");
    }
}

#[test]
fn losses_agree() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    let model = Model::new(&dimensions(), 5).unwrap();
    let context = dimensions().context;
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in text.held_out.sequences(context) {
        let n = batch.inputs.len();
        sum += model.evaluate(batch).unwrap() * n as f64;
        tokens += n;
    }
    for engine in exported(&model, &text, dir.path()) {
        let loss = evaluate::loss(&engine, &text.held_out, context).unwrap();
        assert_eq!(loss.tokens, tokens);
        assert!((loss.nats - sum / tokens as f64).abs() < 1e-4, "{loss:?}");
    }
}

#[test]
fn tokens_agree() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    let model = Model::new(&dimensions(), 5).unwrap();
    let mut texts = stories(&corpus().join("heldout.txt")).unwrap();
    let odd = ["", " ", "\n\n  x", "don't DON'T 1234 a1b2", "Zürich 日本 \u{1f426}"];
    texts.extend(odd.map(String::from));
    for engine in exported(&model, &text, dir.path()) {
        let tokenizer = engine.tokenizer().unwrap();
        for story in &texts {
            let want = text.tokenizer.encode(story).unwrap();
            assert_eq!(tokenizer.encode_with(story, PLAIN).unwrap(), want, "{story}");
            let mut begun = vec![text.tokenizer.end()];
            begun.extend(&want);
            assert_eq!(tokenizer.encode(story).unwrap(), begun, "{story}");
            assert_eq!(&tokenizer.decode(&want, false).unwrap(), story);
        }
        assert_eq!(tokenizer.eog_ids(), [text.tokenizer.end()]);
    }
}

#[test]
fn every_type_loads() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    let model = Model::new(&dimensions(), 5).unwrap();
    let path = dir.path().join("model.gguf");
    for types in ["f32", "f16", "q8_0", "q4_0"] {
        let mixture = Mixture::by_name(types).unwrap();
        export::gguf(&model, &text.tokenizer, mixture, "a test", &path).unwrap();
        let story = sample::story(&open(&path), 1, 1.0, 0.95).unwrap();
        assert!(story.len() < 100_000);
    }
}
