//! Weights that are quantised in ways of their own: what is read, against plain arithmetic, and what is refused.

mod common;

use std::path::{Path, PathBuf};

use common::gguf::Gguf;
use common::models::{ids, random_of};
use common::reference::{json, max_difference, relative_rmse};
use common::{bits, logits};
use goldcrest::load::{
    Checkpoint, GgmlType, GgufEntry, ReadOptions, fuzzing, gguf_padding, write_gguf_header,
};
use goldcrest::{Error, ErrorKind, Format, KvType, Model};
use serde_json::{Value, json};

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(case)
}

/// What loading says of the folder in MXFP4, with other keys or bytes.
fn mxfp4_with(edit: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Result<(), Error> {
    let folder = fixture("gpt_oss_mxfp4");
    let mut config = json(folder.join("config.json"));
    let mut weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    edit(&mut config, &mut weights);
    fuzzing::folder(config.to_string().as_bytes(), &weights).and_then(fuzzing::run)
}

/// Writes `to` over the first `from` of a header, which must be as long.
fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes());
    bytes[at.unwrap_or_else(|| panic!("no {from}"))..][..to.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn keys_of_a_quantisation_are_understood_or_refused_by_name() {
    const KEY: &str = "quantization_config";
    let with = |quantization: Value| mxfp4_with(|config, _| config[KEY] = quantization);
    let method = json!("mxfp4");
    with(json!({"quant_method": method})).unwrap();
    with(json!({"quant_method": method, "modules_to_not_convert": null})).unwrap();
    with(json!({"quant_method": method, "dequantize": false})).unwrap();
    with(Value::Null).unwrap();
    for (quantization, named) in [
        (json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        (json!({}), KEY),
        (json!({"quant_method": method, "group_size": 16}), "quantization_config.group_size"),
        (
            json!({"quant_method": method, "modules_to_not_convert": "all"}),
            "modules_to_not_convert",
        ),
    ] {
        let error = with(quantization).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn codes_and_scales_go_together() {
    let folder = fixture("gpt_oss_mxfp4");
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let scales = "model.layers.1.mlp.experts.down_proj_scales";
    let scale = tensors.tensor(scales).unwrap().data().as_ptr() as usize - bytes.as_ptr() as usize;
    let fails = |edit: &dyn Fn(&mut Vec<u8>), named: &[&str]| {
        let error = mxfp4_with(|_, weights| edit(weights)).unwrap_err();
        let text = error.to_string();
        assert!(named.iter().all(|part| text.contains(part)), "{text}");
    };
    let renamed = "model.layers.1.mlp.experts.down_proj_scalez";
    fails(&|w| replace(w, scales, renamed), &["blk.1.ffn_down_exps.scales", "missing"]);
    let codes = scales.replace("scales", "blocks");
    let other = scales.replace("scales", "blockz");
    fails(&|w| replace(w, &codes, &other), &["blk.1.ffn_down.0.weight", "missing"]);
    // One row of 32 values is 16 bytes, whatever is said of its shape.
    fails(&|w| replace(w, "[5,64,1,16]", "[5,64,16,1]"), &["ffn_down_exps.blocks", "MXFP4"]);
    fails(&|w| replace(w, "[5,64,1]", "[64,5,1]"), &["ffn_down_exps.scales", "MXFP4"]);
    // Row 3 of expert 1 has one block; its scale is the last that there could be, which is none.
    fails(&|w| w[scale + 64 + 3] = 0xff, &["blk.1.ffn_down_exps.mxfp4", "NaN", "row 67"]);
}

fn run(file: Vec<u8>) -> Model {
    let loader = Model::from_bytes("made", file).threads(2).kv(KvType::F32);
    loader.load().unwrap_or_else(|e| panic!("{e}"))
}

/// The numbers of a tensor, and those of F32.
fn decoded(file: &Gguf, name: &str) -> Vec<f32> {
    let tensor = file.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let mut values = vec![0.0; tensor.shape.iter().product::<u64>() as usize];
    let ty = GgmlType::from_id(tensor.ty).unwrap();
    ty.kernel_format().unwrap().dequantize(&tensor.data, &mut values);
    values
}

fn number(file: &mut Gguf, name: &str, value: f32) {
    file.tensor(name, &[1], GgmlType::F32.id(), value.to_le_bytes().to_vec());
}

/// With layers that add nothing the logits are the head's products with normalised embeddings.
#[test]
fn products_of_nvfp4_are_multiplied_by_the_factor_of_their_tensor() {
    let factor = 0.0371f32;
    let mut file = random_of("llama", GgmlType::NVFP4);
    for tensor in &mut file.tensors {
        if tensor.name.contains("attn_output") || tensor.name.contains("ffn_down") {
            tensor.data.fill(0);
        }
    }
    number(&mut file, "output.scale", factor);
    number(&mut file, "output.input_scale", 123.0);
    let [embedding, head, norm] = ["token_embd.weight", "output.weight", "output_norm.weight"]
        .map(|name| decoded(&file, name).into_iter().map(f64::from).collect::<Vec<_>>());
    let ids = ids(9, 384);
    let mut want = Vec::new();
    for &id in &ids {
        let x = &embedding[id as usize * 256..][..256];
        let mean = x.iter().map(|x| x * x).sum::<f64>() / 256.0;
        let row: Vec<f64> =
            x.iter().zip(&norm).map(|(x, w)| x * w / (mean + 1e-5f32 as f64).sqrt()).collect();
        let product = |w: &[f64]| w.iter().zip(&row).map(|(w, x)| w * x).sum::<f64>();
        want.extend(head.chunks(256).map(|w| (product(w) * f64::from(factor)) as f32));
    }
    let ours = logits(&run(file.build()), &ids);
    let difference = max_difference(&ours, &want);
    let greatest = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    assert!(difference < 1e-5 * greatest, "{difference} of {greatest}");
}

/// Each factor of a layer, against the same numbers as floats with their factors inside.
#[test]
fn every_matrix_of_a_layer_may_have_a_factor() {
    let mut file = random_of("qwen3", GgmlType::NVFP4);
    let mut floats = file.clone();
    let matrices: Vec<_> = file.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for (i, name) in (0..).zip(matrices) {
        let Some(stem) = name.strip_suffix(".weight").filter(|stem| !stem.contains("norm")) else {
            continue;
        };
        let known = name != "token_embd.weight";
        let factor = if known { 0.5 + (i % 7) as f32 * 0.23 } else { 1.0 };
        let values = decoded(&file, &name).into_iter().map(|x| x * factor);
        let tensor = floats.tensor_mut(&name);
        tensor.data = values.flat_map(f32::to_le_bytes).collect();
        tensor.ty = GgmlType::F32.id();
        if known {
            number(&mut file, &format!("{stem}.scale"), factor);
            number(&mut file, &format!("{stem}.input_scale"), 3.5);
        }
    }
    let ids = ids(40, 384);
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed");
    Model::from_bytes("made", file.build()).pack(&packed).unwrap();
    let (ours, want) = (logits(&run(file.build()), &ids), logits(&run(floats.build()), &ids));
    let error = relative_rmse(&ours, &want);
    assert!(error < 1e-5, "{error}");
    let model = Model::loader(&packed).threads(1).kv(KvType::F32).load().unwrap();
    assert!(bits(&logits(&model, &ids)) == bits(&ours), "packed");
}

#[test]
fn factors_have_their_shape_and_their_place() {
    let refused = |name: &str, shape: &[u64]| {
        let mut file = random_of("llama", GgmlType::NVFP4);
        file.f32_tensor(name, shape);
        fuzzing::gguf(&file.build()).and_then(fuzzing::run).unwrap_err()
    };
    let error = refused("blk.1.ffn_up.scale", &[512]);
    assert_eq!(error.kind(), ErrorKind::Tensor, "{error}");
    for name in ["blk.0.attn_norm.scale", "token_embd.scale", "blk.2.ffn_up.scale", "scale"] {
        let error = refused(name, &[1]);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("\"{name}\"")), "{error}");
    }
}

/// A GGUF file with other bytes of its tensors, and more tensors.
fn with_tensors(
    path: &Path,
    mut edit: impl FnMut(&str, &mut Vec<u8>),
    more: Vec<(String, Vec<f32>)>,
) -> Vec<u8> {
    let file = Checkpoint::open(path, &ReadOptions::default()).unwrap();
    let mut tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|tensor| {
            let mut data = file.data(tensor).to_vec();
            edit(&tensor.name, &mut data);
            (tensor.name.clone(), tensor.shape.clone(), tensor.ty, data)
        })
        .collect();
    tensors.extend(more.into_iter().map(|(name, values)| {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        (name, vec![values.len()], GgmlType::F32, data)
    }));
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape, ty, data)| GgufEntry {
            name: name.clone(),
            shape: shape.clone(),
            ty: *ty,
            bytes: data.len() as u64,
        })
        .collect();
    let mut out = Vec::new();
    write_gguf_header(&mut out, file.metadata(), &entries).unwrap();
    for (.., data) in &tensors {
        out.extend(data);
        out.extend(gguf_padding(data.len() as u64));
    }
    out
}

/// Powers of two, which MXFP4 can have in its scales: the same bits, with biases and without.
#[test]
fn experts_have_a_factor_each() {
    const POWERS: [[i32; 5]; 3] = [[1, -1, 2, 0, 3], [0, 1, -2, 1, -1], [-1, 0, 1, 2, 0]];
    let path = fixture("gpt_oss_mxfp4").join("gpt_oss_mxfp4-F16.gguf");
    let parts = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
    let factors = [0, 1].into_iter().flat_map(|layer| {
        parts.iter().zip(POWERS).map(move |(part, powers)| {
            (format!("blk.{layer}.{part}.scale"), powers.map(|p| 2f32.powi(p)).to_vec())
        })
    });
    let apart = with_tensors(&path, |_, _| {}, factors.collect());
    let inside = with_tensors(
        &path,
        |name, data| {
            let part = parts.iter().position(|part| name.ends_with(&format!("{part}.weight")));
            let powers = part.map(|part| POWERS[part]).into_iter().flatten();
            let expert = data.len() / 5;
            for (data, power) in data.chunks_exact_mut(expert).zip(powers) {
                let blocks = data.chunks_exact_mut(Format::MXFP4.block_bytes());
                blocks.for_each(|block| block[0] = block[0].wrapping_add_signed(power as i8));
            }
        },
        Vec::new(),
    );
    let ids = ids(40, 96);
    for pass in [1, 40] {
        let of = |file: &[u8]| {
            let mut session = run(file.to_vec()).session().unwrap();
            ids.chunks(pass).flat_map(|ids| bits(&session.logits_all(ids).unwrap())).collect()
        };
        let (apart, inside): (Vec<_>, Vec<_>) = (of(&apart), of(&inside));
        assert!(apart == inside, "pieces of {pass}");
    }
    let plain = logits(&Model::open(&path).unwrap(), &ids);
    assert!(relative_rmse(&logits(&run(apart), &ids), &plain) > 0.1, "factors that do nothing");
}
