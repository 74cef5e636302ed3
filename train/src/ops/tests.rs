//! Gradients against candle's own, of the same formulas in candle's small operations.

use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::*;
use crate::random::normal;

fn variable(seed: u64, shape: &[usize], std: f32) -> Var {
    let values = normal(seed, shape.iter().product(), std);
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// Compares result and gradients of two formulas of the same variables.
fn compare(
    variables: &[&Var],
    ours: impl Fn() -> Result<Tensor>,
    candle: impl Fn() -> Result<Tensor>,
) {
    let (a, b) = (ours().unwrap(), candle().unwrap());
    close(&a, &b, "result");
    // A weighted sum, so that the gradients of the values differ.
    let weights = variable(99, a.dims(), 1.0);
    let grads = |x: &Tensor| (x * weights.as_tensor()).unwrap().sum_all().unwrap().backward();
    let (a, b) = (grads(&a).unwrap(), grads(&b).unwrap());
    for (i, variable) in variables.iter().enumerate() {
        close(a.get(variable).unwrap(), b.get(variable).unwrap(), &format!("gradient {i}"));
    }
}

fn close(a: &Tensor, b: &Tensor, what: &str) {
    let error = (a - b).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    let size = b.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(error.sqrt() < 2e-5 * size.sqrt().max(1e-6), "{what}: {error} of {size}");
}

fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(w)
}

#[test]
fn norm() {
    let (x, w) = (variable(1, &[300, 24], 1.0), variable(2, &[24], 1.0));
    compare(&[&x, &w], || x.apply_op2(&w, Norm { eps: 1e-5 }), || rms_norm(&x, &w, 1e-5));
}

#[test]
fn feed_forward() {
    let x = variable(1, &[70, 32], 1.0);
    let (w_in, w_out) = (variable(2, &[96, 32], 0.3), variable(3, &[32, 48], 0.3));
    compare(
        &[&x, &w_in, &w_out],
        || x.apply_op3(&w_in, &w_out, FeedForward::new(Mode::Train)),
        || {
            let both = x.matmul(&w_in.t()?)?;
            let (gate, up) = (both.narrow(1, 0, 48)?, both.narrow(1, 48, 48)?);
            (gate.silu()? * up)?.matmul(&w_out.t()?)
        },
    );
}

/// Two sequences that end within a tile.
#[test]
fn attention() {
    let heads = Heads { n_heads: 4, n_kv_heads: 2, head_dim: 16, seq_len: 100 };
    let rope = Arc::new(Rope::new(100, 16, 1e4));
    let x = variable(1, &[200, 40], 1.0);
    let (w_in, w_out) = (variable(2, &[128, 40], 0.3), variable(3, &[40, 64], 0.3));
    compare(
        &[&x, &w_in, &w_out],
        || x.apply_op3(&w_in, &w_out, Attention::new(heads, Arc::clone(&rope), Mode::Train)),
        || composed_attention(&x, &w_in, &w_out),
    );
}

/// `[2 * seq, n * 16]` to `[2, n, seq, 16]`, turned if asked for.
fn heads_of(x: &Tensor, n: usize, turned: bool) -> Result<Tensor> {
    let (seq, dim) = (100, 16);
    let x = x.reshape((2, seq, n, dim))?.transpose(1, 2)?.contiguous()?;
    if !turned {
        return Ok(x);
    }
    let angle = |i: usize| {
        let (position, pair) = (i / dim, i % dim % (dim / 2));
        (position as f64 * 1e4f64.powf(-2.0 * pair as f64 / dim as f64)) as f32
    };
    let angles: Vec<f32> = (0..seq * dim).map(angle).collect();
    let angles = Tensor::from_vec(angles, (seq, dim), &Device::Cpu)?;
    let (a, b) = (x.narrow(3, 0, dim / 2)?, x.narrow(3, dim / 2, dim / 2)?);
    let other = Tensor::cat(&[&b.neg()?, &a], 3)?;
    x.broadcast_mul(&angles.cos()?)? + other.broadcast_mul(&angles.sin()?)?
}

fn composed_attention(x: &Tensor, w_in: &Tensor, w_out: &Tensor) -> Result<Tensor> {
    let seq = 100;
    let qkv = x.matmul(&w_in.t()?)?;
    let q = heads_of(&qkv.narrow(1, 0, 64)?.contiguous()?, 4, true)?;
    let k = heads_of(&qkv.narrow(1, 64, 32)?.contiguous()?, 2, true)?;
    let v = heads_of(&qkv.narrow(1, 96, 32)?.contiguous()?, 2, false)?;
    let twice = |x: Tensor| Tensor::stack(&[&x, &x], 2)?.reshape((2, 4, seq, 16));
    let (k, v) = (twice(k)?, twice(v)?);
    let mask: Vec<f32> =
        (0..seq * seq).map(|i| if i % seq > i / seq { f32::NEG_INFINITY } else { 0.0 }).collect();
    let mask = Tensor::from_vec(mask, (seq, seq), &Device::Cpu)?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * 0.25)?.broadcast_add(&mask)?;
    let scores = scores.broadcast_sub(&scores.max_keepdim(3)?)?.exp()?;
    let p = scores.broadcast_div(&scores.sum_keepdim(3)?)?;
    let mixed = p.matmul(&v)?.transpose(1, 2)?.contiguous()?.reshape((2 * seq, 64))?;
    mixed.matmul(&w_out.t()?)
}

fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let x = x.broadcast_sub(&x.max_keepdim(1)?.detach())?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(1)?.log()?)
}

/// More rows than one piece of the loss has.
#[test]
fn losses() {
    let (rows, vocab) = (600, 40);
    let (x, w) = (variable(1, &[rows, 24], 1.0), variable(2, &[vocab, 24], 0.5));
    let (hidden, output) = (variable(3, &[rows, 32], 1.0), variable(4, &[vocab, 32], 0.4));
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7 % vocab as u32).collect();
    for (temperature, share) in [(1.0, 0.0), (2.0, 0.7), (1.0, 1.0)] {
        let targets = || Targets {
            ids: ids.clone(),
            soft: (share > 0.0).then(|| Soft {
                hidden: hidden.detach(),
                output: output.detach(),
                temperature,
                share,
            }),
        };
        let ours = x.apply_op2(&w, Loss::new(targets(), Mode::Train).0).unwrap();
        let candle = || {
            let logits = x.matmul(&w.t()?)?;
            let target = Tensor::new(&ids[..], &Device::Cpu)?.unsqueeze(1)?;
            let hard = log_softmax(&logits)?.gather(&target, 1)?.mean_all()?.neg()?;
            let t = f64::from(temperature);
            let teacher = log_softmax(&(hidden.matmul(&output.t()?)? / t)?)?.detach();
            let student = log_softmax(&(logits / t)?)?;
            let soft = (teacher.exp()? * (&teacher - student)?)?.sum_all()?;
            let share = f64::from(share);
            (hard * (1.0 - share))? + (soft * (share * t * t / rows as f64))?
        };
        let candle = candle().unwrap();
        close(&ours, &candle, "loss");
        let (a, b) = (ours.backward().unwrap(), candle.backward().unwrap());
        for variable in [&x, &w] {
            close(a.get(variable).unwrap(), b.get(variable).unwrap(), "gradient");
        }
    }
}

#[test]
fn dropout_keeps_the_mean() {
    let x = Var::ones((1000, 100), DType::F32, &Device::Cpu).unwrap();
    let y = x.apply_op1(Dropout { p: 0.25, seed: 7 }).unwrap();
    let mean = y.mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
    let grads = y.sum_all().unwrap().backward().unwrap();
    close(grads.get(&x).unwrap(), &y, "the same mask");
}
