//! Streams a continuation token by token with its probabilities, and stops it from another thread:
//! `cargo run --release --example stream -- MODEL [PROMPT]`
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::io::Write;
use std::time::Duration;

use goldcrest::{CancelToken, ErrorKind, GenerationParams, Model, SamplingParams};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: stream MODEL [PROMPT]")?;
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let model = Model::loader(path).context(256).load()?;
    let mut session = model.session()?;
    session.push(&model.tokenizer()?.encode(&prompt)?)?;

    let cancel = CancelToken::new();
    let params = GenerationParams::from(SamplingParams::default().temperature(0.7).seed(1))
        .max_tokens(100)
        .stop(["\n\n"])
        .cancel(&cancel);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(10));
        cancel.cancel();
    });

    print!("{prompt}");
    let mut logprob = 0.0;
    let mut generator = session.generate(params)?;
    for token in generator.by_ref() {
        match token {
            Ok(token) => {
                print!("{}", token.text); // whole characters, sometimes nothing
                std::io::stdout().flush()?;
                logprob += token.logprob;
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => break,
            Err(error) => return Err(error.into()),
        }
    }
    print!("{}", generator.take_held()); // what an error kept from coming
    println!("\n({:?}, log-probability {logprob:.2})", generator.stop_reason());
    Ok(())
}
