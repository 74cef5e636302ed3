//! A training of a few seconds: it learns, repeats itself, and goes on where it stopped.

mod common;

use std::fs;
use std::path::Path;

use common::{Text, dimensions, settings};
use goldcrest_train::log::{LOG, read};
use goldcrest_train::model::{Model, Teacher};
use goldcrest_train::trainer::{LATEST, Settings, Trainer};

fn run(text: &Text, settings: Settings, dir: &Path, teacher: Option<&Teacher>) {
    let model = Model::new(&dimensions(), settings.seed).unwrap();
    let mut trainer = Trainer::new(model, settings, dir).unwrap();
    trainer.run(&text.train, &text.held_out, teacher, |_| ()).unwrap();
}

fn checkpoint(dir: &Path) -> Vec<u8> {
    fs::read(dir.join(LATEST)).unwrap()
}

fn held_out(dir: &Path) -> Vec<f64> {
    read(&dir.join(LOG)).unwrap().iter().filter_map(|record| record.held_out).collect()
}

#[test]
fn the_held_out_loss_falls() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    run(&text, settings(100), dir.path(), None);
    let losses = held_out(dir.path());
    assert_eq!(losses.len(), 10);
    // A model that knows nothing finds all tokens equally likely.
    let ignorant = (dimensions().vocab as f64).ln();
    assert!(losses[9] < ignorant - 0.8 && losses[9] < losses[0] - 0.1, "{losses:?}");
}

#[test]
fn a_seed_repeats_and_a_stop_changes_nothing() {
    let text = Text::new();
    let [once, again, stopped, other] = [(); 4].map(|()| tempfile::tempdir().unwrap());
    run(&text, settings(20), once.path(), None);
    run(&text, settings(20), again.path(), None);
    assert_eq!(checkpoint(once.path()), checkpoint(again.path()));

    run(&text, Settings { until: Some(10), ..settings(20) }, stopped.path(), None);
    assert_ne!(checkpoint(once.path()), checkpoint(stopped.path()));
    let mut trainer = Trainer::resume(settings(20), stopped.path()).unwrap();
    assert_eq!(trainer.step(), 10);
    trainer.run(&text.train, &text.held_out, None, |_| ()).unwrap();
    assert_eq!(checkpoint(once.path()), checkpoint(stopped.path()));
    assert_eq!(held_out(once.path()), held_out(stopped.path()));
    assert_eq!(read(&stopped.path().join(LOG)).unwrap().len(), 20);

    run(&text, Settings { seed: 4, ..settings(20) }, other.path(), None);
    assert_ne!(checkpoint(once.path()), checkpoint(other.path()));
    let error = Trainer::resume(settings(20), other.path()).err().unwrap();
    assert!(error.to_string().contains("--seed 4"), "{error}");
}

#[test]
fn stops_when_it_no_longer_helps() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    let still = Settings { rate: 0.0, every: 1, patience: 2, ..settings(100) };
    run(&text, still, dir.path(), None);
    assert_eq!(held_out(dir.path()).len(), 4);
}

/// A student that hears nothing but its teacher comes close to it.
#[test]
fn a_student_follows_its_teacher() {
    let (text, dir) = (Text::new(), tempfile::tempdir().unwrap());
    let (teacher, student) = (dir.path().join("teacher"), dir.path().join("student"));
    run(&text, settings(50), &teacher, None);
    let model = Model::open(&teacher.join(LATEST)).unwrap();
    let teacher = Teacher { model, temperature: 2.0, share: 1.0 };
    let settings = Settings { seed: 8, dropout: 0.0, ..settings(50) };
    run(&text, settings, &student, Some(&teacher));
    let soft: Vec<f64> =
        read(&student.join(LOG)).unwrap().iter().map(|record| record.soft.unwrap()).collect();
    assert!(soft[49] < soft[0] / 4.0, "{} {}", soft[0], soft[49]);
}

#[test]
fn layers_are_taken_over() {
    let model = Model::new(&dimensions(), 1).unwrap();
    let ids = [1, 2, 3];
    let both = Model::from_layers(&dimensions(), &model, &[0, 1]).unwrap();
    assert_eq!(model.logits(&ids).unwrap(), both.logits(&ids).unwrap());
    let swapped = Model::from_layers(&dimensions(), &model, &[1, 0]).unwrap();
    assert_ne!(model.logits(&ids).unwrap(), swapped.logits(&ids).unwrap());
    assert!(Model::from_layers(&dimensions(), &model, &[0, 2]).is_err());
    assert!(Model::from_layers(&dimensions(), &model, &[0]).is_err());
}
