//! Weights that are quantised in ways of their own: what is read, against plain arithmetic, and what is refused.

mod common;

use std::path::{Path, PathBuf};

use common::reference::json;
use goldcrest::load::fuzzing;
use goldcrest::{Error, ErrorKind};
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
