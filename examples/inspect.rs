//! Lists what a model file holds, without loading it: `cargo run --example inspect -- MODEL`
#![allow(clippy::print_stdout, reason = "a program's output")]

use goldcrest::load::{Checkpoint, ReadOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: inspect MODEL")?;
    let checkpoint = Checkpoint::open(path, &ReadOptions::default())?;

    println!("architecture: {}", checkpoint.architecture().unwrap_or("none"));
    println!("parameters:   {}", checkpoint.parameters());
    match checkpoint.config() {
        Ok(config) => println!("{config:#?}"),
        Err(error) => println!("it does not run: {error}"),
    }
    for tensor in checkpoint.tensors() {
        println!("{:<40} {:<6} {:?}", tensor.name, tensor.ty.to_string(), tensor.shape);
    }
    Ok(())
}
