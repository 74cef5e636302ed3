//! A worker's panic at any step of a pass is an error, and nothing else comes of it.

use crate::error::{ErrorKind, Result};
use crate::model::Model;
use crate::session::Session;
use crate::synthetic::{Mixture, Shape, save};
use crate::threads::fault;

const THREADS: usize = 3;
/// More than one block of rows for attention, and no whole number of them.
const PROMPT: usize = 19;

fn tiny() -> Model {
    let shape = Shape {
        name: "tiny",
        hidden: 256,
        ffn: 512,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        vocab: 512,
        context_length: 64,
        ..Shape::by_name("smollm2-135m").unwrap().clone()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    // Two activation forms, and matrices of two formats side by side.
    save(&shape, Mixture::by_name("q4_k_m").unwrap(), 1, &path).unwrap();
    Model::loader(&path).mmap(false).threads(THREADS).load().unwrap()
}

/// Lets worker `culprit` panic after some steps, or none.
fn arm(model: &Model, culprit: usize, steps: Option<usize>) {
    let arm = |w: &mut crate::threads::Worker<'_>| {
        if w.index() == culprit {
            fault::arm(steps);
        }
        Ok(())
    };
    model.0.queue.with_team(|team| team.run(&arm).unwrap());
}

fn prompt(session: &mut Session) -> Result<Vec<f32>> {
    let ids: Vec<u32> = (0..PROMPT as u32).map(|i| i * 7 % 512).collect();
    session.push(&ids)?;
    Ok(session.logits().unwrap().to_vec())
}

fn step(session: &mut Session) -> Result<Vec<f32>> {
    session.push(&[5])?;
    Ok(session.logits().unwrap().to_vec())
}

/// Fails a pass at every step of every worker in turn, `stride` apart; after each failure it gives
/// what it gives without, in its own session and in another.
fn fail_everywhere(
    model: &Model,
    start: impl Fn() -> Session,
    pass: fn(&mut Session) -> Result<Vec<f32>>,
    stride: usize,
) {
    let want = pass(&mut start()).unwrap();
    for culprit in 0..THREADS {
        let mut failures = 0;
        for steps in (0..).step_by(stride) {
            let mut session = start();
            let before = session.tokens().to_vec();
            arm(model, culprit, Some(steps));
            let Err(error) = pass(&mut session) else { break };
            assert_eq!(error.kind(), ErrorKind::Worker);
            assert!(error.to_string().contains("on purpose"), "{error}");
            assert_eq!(session.tokens(), before);
            assert_eq!(pass(&mut start()).unwrap(), want, "after step {steps} of {culprit}");
            assert_eq!(pass(&mut session).unwrap(), want, "after step {steps} of {culprit}");
            failures += 1;
        }
        // The pass came to its end before the last count did.
        arm(model, culprit, None);
        assert!(failures > 10, "{failures} failures of worker {culprit}");
        assert_eq!(pass(&mut start()).unwrap(), want);
    }
}

#[test]
fn a_prompt_survives_a_panic_anywhere() {
    let model = tiny();
    fail_everywhere(&model, || model.session().unwrap(), prompt, 3);
}

#[test]
fn a_step_survives_a_panic_anywhere() {
    let model = tiny();
    let start = || {
        let mut session = model.session().unwrap();
        prompt(&mut session).unwrap();
        session
    };
    fail_everywhere(&model, start, step, 1);
}
