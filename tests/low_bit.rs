//! Formats of two bits and less as files have them: the types of PrismML's fork of llama.cpp against a
//! naive decode (no real file of theirs was at hand), Q2_0 in both of its layouts, and activations that
//! are turned.

mod common;

use common::gguf::{ARRAY, BOOL, Gguf};
use common::models::{ids, random};
use common::reference::relative_rmse;
use common::{bits, logits};
use goldcrest::load::{GgmlType, fuzzing};
use goldcrest::synthetic::random_rows;
use goldcrest::{ErrorKind, Format, Model};
use goldcrest_kernels::{pack_panel, unpack_row};
use half::f16;

/// The values of a row, by the layout that the fork's sources give.
fn decode(format: Format, row: &[u8]) -> Vec<f64> {
    let half = |b: &[u8]| f64::from(f16::from_le_bytes([b[0], b[1]]).to_f32());
    let mut values = Vec::new();
    for block in row.chunks_exact(format.block_bytes()) {
        if format == Format::PQ2_0 {
            let d = half(block);
            let codes = block[2..].iter().flat_map(|b| (0..4).map(move |i| b >> (2 * i) & 3));
            values.extend(codes.map(|code| d * (f64::from(code) - 1.0)));
            continue;
        }
        // A byte is a fraction in base 3; stages of 16 and 8 bytes of five digits, and 2 of four.
        let d = half(&block[26..]);
        for (bytes, digits) in [(&block[..16], 5), (&block[16..24], 5), (&block[24..26], 4)] {
            for n in 0..digits {
                let digit = |b: &u8| (f64::from(*b) / 256.0 * 3f64.powi(n + 1)).floor() % 3.0;
                values.extend(bytes.iter().map(|b| d * (digit(b) - 1.0)));
            }
        }
    }
    values
}

#[test]
fn the_types_of_the_fork_have_the_values_of_a_naive_decode() {
    for (ty, format) in [(GgmlType::PQ2_0, Format::PQ2_0), (GgmlType::PTQ1_0, Format::PTQ1_0)] {
        let k = 640;
        let mut rows = random_rows(ty, 16, k, 7);
        // Every byte that there is.
        let at = if format == Format::PQ2_0 { 2 } else { 0 };
        let blocks = rows.chunks_exact_mut(format.block_bytes());
        let codes = blocks.flat_map(|block| &mut block[at..at + 26]);
        (0..).zip(codes).for_each(|(i, code)| *code = (i % 256) as u8);
        let mut panel = vec![0; format.panel_bytes(k)];
        pack_panel(format, k, &rows, &mut panel);
        let (mut got, mut packed) = (vec![0.0; k], vec![0.0; k]);
        for (lane, row) in rows.chunks_exact(rows.len() / 16).enumerate() {
            format.dequantize(row, &mut got);
            let want: Vec<f32> = decode(format, row).iter().map(|&v| v as f32).collect();
            assert_eq!(got, want, "{format}");
            unpack_row(format, &panel, lane, &mut packed);
            assert_eq!(bits(&packed), bits(&got), "{format} packed");
        }
    }
}

fn load(file: &Gguf) -> Model {
    Model::from_bytes("test.gguf", file.build()).threads(2).load().unwrap()
}

/// What loading says of a file that is wrong.
fn refused(file: &Gguf) -> goldcrest::Error {
    let loaded = Model::from_bytes("test.gguf", file.build()).threads(1).load();
    loaded.expect_err("the file is refused")
}

#[test]
fn q2_0_is_told_apart_by_the_room_of_its_tensors() {
    let wide = random(GgmlType::PQ2_0);
    let mut older = wide.clone();
    let ty = GgmlType::Q2_0.id();
    older.tensors.iter_mut().filter(|t| t.ty == GgmlType::PQ2_0.id()).for_each(|t| t.ty = ty);
    let (wide, older) = (load(&wide), load(&older));
    let ids = ids(9, 384);
    assert_eq!(bits(&logits(&wide, &ids)), bits(&logits(&older, &ids)));

    let types = |file: &Gguf| {
        let checkpoint = fuzzing::gguf(&file.build()).unwrap();
        checkpoint
            .tensors()
            .iter()
            .map(|t| t.ty)
            .filter(|ty| *ty != GgmlType::F32)
            .collect::<Vec<_>>()
    };
    assert!(types(&random(GgmlType::Q2_0)).iter().all(|&ty| ty == GgmlType::Q2_0));
    load(&random(GgmlType::Q2_0));
}

/// A file of Q2_0 tensors of these widths and bytes.
fn q2_0(tensors: &[(u64, usize)]) -> Gguf {
    let mut file = Gguf::default();
    file.str("general.architecture", "llama");
    for (i, &(k, bytes)) in tensors.iter().enumerate() {
        file.tensor(&format!("t{i}"), &[4, k], GgmlType::Q2_0.id(), vec![0; bytes]);
    }
    file
}

#[test]
fn a_q2_0_that_may_be_either_is_refused() {
    let types = |file: &Gguf| {
        let checkpoint = fuzzing::gguf(&file.build())?;
        Ok::<_, goldcrest::Error>(checkpoint.tensors().iter().map(|t| t.ty).collect::<Vec<_>>())
    };
    // Four rows of 1024: 1152 bytes, or 1088. Of 64: 72 bytes, which no block of 128 has.
    assert_eq!(types(&q2_0(&[(1024, 1152)])).unwrap(), [GgmlType::Q2_0]);
    assert_eq!(types(&q2_0(&[(1024, 1088)])).unwrap(), [GgmlType::PQ2_0]);
    assert_eq!(types(&q2_0(&[(64, 72)])).unwrap(), [GgmlType::Q2_0]);
    // Four rows of 128 are 144 bytes or 136, both 160 with padding: the others decide.
    assert_eq!(types(&q2_0(&[(128, 144), (1024, 1152)])).unwrap(), [GgmlType::Q2_0; 2]);
    assert_eq!(types(&q2_0(&[(128, 136), (1024, 1088)])).unwrap(), [GgmlType::PQ2_0; 2]);
    for (file, words) in [
        (q2_0(&[(128, 144), (128, 160)]), "nothing tells"),
        (q2_0(&[(1024, 1152), (1024, 1088)]), "truncated?"),
        (q2_0(&[(1024, 1080)]), "run past the end"),
        (q2_0(&[(64, 72), (1024, 1088)]), "truncated?"),
    ] {
        let error = types(&file).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format);
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// Values of a block, and signs of a row.
const BLOCK: usize = 64;

fn sign(i: usize) -> f64 {
    if i * i % 7 < 3 { -1.0 } else { 1.0 }
}

/// `H x / sqrt(block)`, by the definition.
fn hadamard(x: &[f64]) -> Vec<f64> {
    let entry =
        |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
    let row = |x: &[f64], i: usize| (0..BLOCK).map(|j| entry(i, j) * x[j]).sum::<f64>();
    let blocks = x.chunks_exact(BLOCK);
    blocks.flat_map(|x| (0..BLOCK).map(move |i| row(x, i) / (BLOCK as f64).sqrt())).collect()
}

fn signed(x: &[f64]) -> Vec<f64> {
    x.iter().enumerate().map(|(i, x)| sign(i) * x).collect()
}

fn array(ty: u32, count: usize, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut bytes = ty.to_le_bytes().to_vec();
    bytes.extend((count as u64).to_le_bytes());
    items.into_iter().for_each(|item| bytes.extend(item));
    bytes
}

fn ints(values: &[i32]) -> Vec<u8> {
    const I32: u32 = 5;
    array(I32, values.len(), values.iter().map(|v| v.to_le_bytes().to_vec()))
}

/// The keys of a model all of whose matrices are turned, and the embedding's rows.
fn add_keys(file: &mut Gguf) {
    let matrices =
        file.tensors.iter().filter(|t| t.shape.len() == 2 && t.name != "token_embd.weight");
    let names: Vec<String> = matrices.map(|t| t.name.clone()).collect();
    let signs: Vec<i32> = [256, 512].iter().flat_map(|&w| (0..w).map(|i| sign(i) as i32)).collect();
    file.u32("prism.hadamard.version", 1)
        .u32("prism.hadamard.block_size", BLOCK as u32)
        .str("prism.hadamard.transform", "normalized-sylvester-walsh-hadamard")
        .str("prism.hadamard.axis", "input-last-dimension")
        .str("prism.hadamard.sign_mode", "explicit")
        .raw("prism.hadamard.sign_widths", ARRAY, ints(&[256, 512]))
        .raw("prism.hadamard.sign_values", ARRAY, ints(&signs))
        .raw("prism.hadamard.gdn_v_grouped", BOOL, [1])
        .strings("prism.hadamard.weight_names", &names)
        .strings("prism.hadamard.inverse_weight_names", &["token_embd.weight".into()]);
}

/// The same model in floats, its matrices as `f` makes their rows.
fn in_floats(file: &Gguf, ty: GgmlType, f: impl Fn(&[f64]) -> Vec<f64>) -> Gguf {
    let mut file = file.clone();
    for tensor in file.tensors.iter_mut().filter(|t| t.ty == ty.id() && t.shape.len() == 2) {
        let k = tensor.shape[1] as usize;
        let format = ty.kernel_format().unwrap();
        let rows = tensor.data.chunks_exact(format.row_bytes(k).unwrap());
        let rows = rows.flat_map(|row| match format {
            Format::F32 => {
                let values = row.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b)));
                f(&values.collect::<Vec<_>>())
            }
            _ => f(&decode(format, row)),
        });
        tensor.data = rows.flat_map(|v| (v as f32).to_le_bytes()).collect();
        tensor.ty = GgmlType::F32.id();
    }
    file
}

#[test]
fn turned_weights_and_activations_are_the_model_itself() {
    let plain = random(GgmlType::F32);
    let turned = in_floats(&plain, GgmlType::F32, |row| hadamard(&signed(row)));
    let mut told = turned.clone();
    add_keys(&mut told);
    let ids = ids(21, 384);
    let want = logits(&load(&plain), &ids);
    let model = load(&told);
    let got = logits(&model, &ids);
    assert!(relative_rmse(&got, &want) < 1e-4, "{}", relative_rmse(&got, &want));
    // What the keys do is no small thing.
    assert!(relative_rmse(&logits(&load(&turned), &ids), &want) > 0.5);
    // One at a time.
    let mut session = model.session().unwrap();
    let alone: Vec<f32> = ids.iter().flat_map(|&id| session.logits_all(&[id]).unwrap()).collect();
    assert_eq!(bits(&alone), bits(&got));
}

#[test]
fn a_packed_model_is_turned_as_its_file_is() {
    let mut file = in_floats(&random(GgmlType::F32), GgmlType::F32, |row| hadamard(&signed(row)));
    add_keys(&mut file);
    let dir = tempfile::tempdir().unwrap();
    let (path, packed) = (dir.path().join("turned.gguf"), dir.path().join("packed"));
    std::fs::write(&path, file.build()).unwrap();
    Model::loader(&path).threads(1).pack(&packed).unwrap();
    let ids = ids(5, 384);
    let want = logits(&load(&file), &ids);
    let got = logits(&Model::loader(&packed).threads(2).load().unwrap(), &ids);
    assert_eq!(bits(&got), bits(&want));
}

#[test]
fn models_of_the_fork_are_near_their_naive_decode() {
    for ty in [GgmlType::PQ2_0, GgmlType::PTQ1_0] {
        let mut file = random(ty);
        let want = in_floats(&file, ty, |row| signed(&hadamard(row)));
        add_keys(&mut file);
        let ids = ids(21, 384);
        let error = relative_rmse(&logits(&load(&file), &ids), &logits(&load(&want), &ids));
        // Activations have 8 bits.
        assert!(error < 0.05, "{ty}: {error}");
    }
}

#[test]
fn a_rotation_that_is_not_understood_is_refused_by_its_key() {
    let mut file = random(GgmlType::F32);
    add_keys(&mut file);
    load(&file);
    type Edit = fn(&mut Gguf) -> &mut Gguf;
    let edits: [(&str, &str, Edit); 16] = [
        ("version", "3", |f| f.u32("prism.hadamard.version", 3)),
        ("version", "missing", |f| f.remove("prism.hadamard.version")),
        ("version", "tied_output true", |f| f.raw("prism.hadamard.tied_output", BOOL, [1])),
        ("block_size", "48", |f| f.u32("prism.hadamard.block_size", 48)),
        ("block_size", "0 is", |f| f.remove("prism.hadamard.block_size")),
        ("sign_widths", "256", |f| f.u32("prism.hadamard.block_size", 512)),
        ("transform", "slant", |f| f.str("prism.hadamard.transform", "slant")),
        ("axis", "output", |f| f.str("prism.hadamard.axis", "output")),
        ("sign_mode", "seeded", |f| f.str("prism.hadamard.sign_mode", "seeded")),
        ("sign_widths", "no 512", |f| {
            f.raw("prism.hadamard.sign_widths", ARRAY, ints(&[256]));
            f.raw("prism.hadamard.sign_values", ARRAY, ints(&[1; 256]))
        }),
        ("sign_values", "fewer", |f| f.raw("prism.hadamard.sign_values", ARRAY, ints(&[1; 700]))),
        ("sign_values", "more", |f| f.raw("prism.hadamard.sign_values", ARRAY, ints(&[1; 769]))),
        ("sign_values", "neither", |f| f.raw("prism.hadamard.sign_values", ARRAY, ints(&[2; 768]))),
        ("weight_names", "only some", |f| {
            f.strings("prism.hadamard.weight_names", &["blk.0.attn_q.weight".into()])
        }),
        ("weight_names", "blk.0.ssm_out.weight", |f| {
            f.raw("prism.hadamard.gdn_v_grouped", BOOL, [0]);
            f.strings("prism.hadamard.weight_names", &["blk.0.ssm_out.weight".into()])
        }),
        ("inverse_weight_names", "output.weight", |f| {
            f.strings("prism.hadamard.inverse_weight_names", &["output.weight".into()])
        }),
    ];
    for (key, words, edit) in edits {
        let mut wrong = file.clone();
        edit(&mut wrong);
        let error = refused(&wrong).to_string();
        let named = format!("\"prism.hadamard.{key}\"");
        assert!(error.contains(&named) && error.contains(words), "{key}, {words}: {error}");
    }
    for key in ["prism.hadamard.seed", "onebit.hadamard_q4_0"] {
        let mut wrong = file.clone();
        wrong.u32(key, 32);
        assert!(refused(&wrong).to_string().contains(key));
    }
    // The heads of a gated delta net in an order of their own.
    file.strings("prism.hadamard.weight_names", &["blk.0.ssm_out.weight".into()]);
    assert!(refused(&file).to_string().contains("gdn_v_grouped"));
}
