//! Continues a prompt, greedily: `cargo run --release --example generate -- MODEL [PROMPT]`
#![allow(clippy::print_stdout, reason = "a program's output")]

use goldcrest::{GenerationParams, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: generate MODEL [PROMPT]")?;
    let prompt = args.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let model = Model::open(path)?;
    let mut session = model.session()?;
    session.push(&model.tokenizer()?.encode(&prompt)?)?;

    let params = GenerationParams::greedy().max_tokens(64);
    let text: String =
        session.generate(params)?.map(|token| Ok(token?.text)).collect::<goldcrest::Result<_>>()?;
    println!("{prompt}{text}");
    println!("{}", session.stats());
    Ok(())
}
