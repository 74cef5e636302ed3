//! A thread of its own generates, and its text comes through a channel, as a server would send it on:
//! `cargo run --release --example channel -- MODEL [PROMPT]`
//!
//! An async server does the same with its runtime's channel: a pass uses all cores for milliseconds,
//! which a thread of the runtime has not to spare.
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::io::Write;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use goldcrest::{CancelToken, GenerationParams, Model, Result, Session};

/// Texts that may wait to be read; the generation waits when there are as many.
const WAITING: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: channel MODEL [PROMPT]")?;
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let model = Model::open(path)?;
    let mut session = model.session()?;
    session.push(&model.tokenizer()?.encode(&prompt)?)?;
    print!("{prompt}");

    // The session goes to a thread and comes back, twice.
    for _ in 0..2 {
        let cancel = CancelToken::new();
        let params = GenerationParams::default().max_tokens(40).cancel(&cancel);
        let (texts, thread) = generate(session, params)?;
        for text in texts {
            print!("{}", text?);
            std::io::stdout().flush()?;
        }
        // A server would cancel where the client is gone; here it comes too late to stop anything.
        cancel.cancel();
        session = thread.join().map_err(|_| "the generation panicked")?;
    }
    println!("\n{}", session.stats());
    Ok(())
}

/// Continues the context on a thread: the texts as they come, and the thread, which has the session.
fn generate(
    session: Session,
    params: GenerationParams,
) -> Result<(Receiver<Result<String>>, JoinHandle<Session>)> {
    let mut generator = session.into_generator(params)?;
    let (sender, receiver) = sync_channel(WAITING);
    let thread = thread::spawn(move || {
        let texts = generator.by_ref().map(|token| Ok(token?.text));
        // Nobody reads any more where sending fails.
        for text in texts {
            if sender.send(text).is_err() {
                break;
            }
        }
        generator.into_session()
    });
    Ok((receiver, thread))
}
