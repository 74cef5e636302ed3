//! One file, one prompt, one seed: the same bits on every instruction set, number of threads and
//! processor, emulated ones included.
#![cfg(feature = "cli")]

mod common;

use std::path::Path;

use common::{assets, bits, greedy_past_ends, models, vocabulary};
use goldcrest::{GenerationParams, Isa, KvType, Model};

/// Tokens of a generation.
const TOKENS: usize = 24;
/// Above a chunk of attention's 256 positions, so that chunks are merged.
const LONG: usize = 300;

/// What makes a run: the model, and what it is to give. The sums are of this engine's own output:
/// they say that machines agree, the other tests that the output is right.
struct Case {
    /// The model of the repository, or one of the assets.
    file: &'static str,
    /// Of a greedy and of a random generation.
    sums: [u64; 2],
}

const STORIES: Case =
    Case { file: "stories", sums: [0x8e4e_5a2c_883d_2bd6, 0x8dcd_0e54_ce51_2444] };

/// Files of the assets.
const FOREIGN: &[Case] = &[
    Case {
        file: "models/stories260K/derived/stories260K-F32.gguf",
        sums: [0xfd33_9bd8_e316_efe1, 0xc1f1_85dc_35e9_32ea],
    },
    Case {
        file: "models/stories260K/derived/stories260K-Q8_0.gguf",
        sums: [0xec12_d676_bff7_db24, 0xe85d_eed9_f6b7_3274],
    },
    Case {
        file: "models/stories260K/derived/stories260K-Q4_0.gguf",
        sums: [0xd2e0_d7e8_77d0_1c37, 0x7cc4_f9f1_20ad_e6c5],
    },
    Case {
        file: "golden/llama_256/gguf/llama_256-Q4_K_M.gguf",
        sums: [0x7d51_2bd6_728b_02eb, 0x151a_a451_93f0_9ca7],
    },
    Case {
        file: "golden/llama_256/gguf/llama_256-Q6_K.gguf",
        sums: [0xd2c9_ed02_9525_61b3, 0xaddf_9abc_bab9_a1f8],
    },
    Case {
        file: "golden/llama_256/gguf/llama_256-F16.gguf",
        sums: [0xbcc0_1cb9_8c46_e471, 0x3768_9a3d_7e73_04f0],
    },
];

/// FNV-1a over ids and the bits of log-probabilities.
struct Sum(u64);

impl Sum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, number: u32) {
        for byte in number.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Ids that look random.
fn prompt(len: usize, vocab: usize) -> Vec<u32> {
    (0..len).map(|i| (i * i * 7 + i * 3 + 5) as u32 % vocab as u32).collect()
}

fn generate(model: &Model, ids: &[u32], params: GenerationParams) -> u64 {
    let mut session = model.session().unwrap();
    session.push(ids).unwrap();
    let mut sum = Sum::new();
    for token in session.generate(params).unwrap() {
        let token = token.unwrap();
        sum.add(token.id);
        sum.add(token.logprob.to_bits());
    }
    sum.0
}

fn params(random: bool) -> GenerationParams {
    if random { common::random(7, TOKENS) } else { greedy_past_ends(TOKENS) }
}

fn load(path: &Path, isa: Isa, threads: usize, kv: KvType) -> Model {
    let loader = Model::loader(path).deterministic(true).isa(isa).threads(threads).kv(kv);
    loader.load().unwrap_or_else(|e| panic!("{e}"))
}

/// Every instruction set of this machine, 1 to 4 threads: the recorded sums.
#[test]
fn one_sum_on_every_tier_and_number_of_threads() {
    has_one_sum(&STORIES, &models::stories());
}

#[test]
fn one_sum_on_every_tier_of_what_others_wrote() {
    let Some(assets) = assets() else { return };
    for case in FOREIGN {
        has_one_sum(case, &assets.join(case.file));
    }
}

fn has_one_sum(Case { file, sums }: &Case, path: &Path) {
    let mut wrong = String::new();
    for isa in Isa::supported() {
        for threads in 1..=4 {
            let model = load(path, isa, threads, KvType::F16);
            let context = model.context() - TOKENS;
            let ids = prompt(LONG.min(context), vocabulary(&model));
            let ours = [false, true].map(|random| generate(&model, &ids, params(random)));
            if ours != *sums {
                let [greedy, random] = ours;
                wrong += &format!("{file} {isa} {threads}: [{greedy:#018x}, {random:#018x}]\n");
            }
        }
    }
    assert!(wrong.is_empty(), "other sums than the recorded ones:\n{wrong}");
}

/// However a text is cut into calls, and in every format of keys and values.
#[test]
fn one_sum_however_a_text_is_cut() {
    is_one_text(&models::stories());
    // Longer than a chunk of attention.
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("long.gguf");
    std::fs::write(&long, models::stories_with(&[("llama.context_length", 512)])).unwrap();
    is_one_text(&long);
}

#[test]
fn one_sum_however_a_text_is_cut_for_what_others_wrote() {
    let Some(assets) = assets() else { return };
    FOREIGN.iter().for_each(|case| is_one_text(&assets.join(case.file)));
}

fn is_one_text(path: &Path) {
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let model = load(path, Isa::best(), 2, kv);
        let ids = prompt(LONG.min(model.context()), vocabulary(&model));
        let mut whole = model.session().unwrap();
        whole.push(&ids).unwrap();
        for step in [1, 2, 7, 16, 33, 100] {
            let mut parts = model.session().unwrap();
            ids.chunks(step).for_each(|ids| parts.push(ids).unwrap());
            let (parts, whole) = (parts.logits().unwrap(), whole.logits().unwrap());
            assert!(bits(parts) == bits(whole), "{} {kv:?} in steps of {step}", path.display());
        }
    }
}

/// What the program says under an emulated processor is what the library says here.
#[cfg(target_arch = "x86_64")]
mod old_processors {
    use std::process::Command;

    use super::*;
    use common::emulator;

    #[test]
    fn one_sum() {
        let Some(emulator) = emulator() else { return };
        is_one_sum(emulator, &models::stories());
    }

    #[test]
    fn one_sum_of_what_others_wrote() {
        let Some(assets) = assets() else { return };
        let Some(emulator) = emulator() else { return };
        for case in FOREIGN {
            is_one_sum(emulator, &assets.join(case.file));
        }
    }

    fn is_one_sum(emulator: &str, path: &Path) {
        const CPUS: [(&str, &str); 4] = [
            ("core2duo", "sse2"),
            ("Nehalem", "ssse3"),
            ("SandyBridge", "avx"),
            ("Haswell", "avx2"),
        ];
        let model = load(path, Isa::best(), 1, KvType::F16);
        for random in [false, true] {
            let ids = model.tokenizer().unwrap().encode("Once upon").unwrap();
            let want = generate(&model, &ids, params(random));
            for (cpu, isa) in CPUS {
                let ours = emulated([emulator, cpu, isa], path, random);
                assert_eq!(ours, want, "{} under {cpu}", path.display());
            }
        }
    }

    /// The sum of the program's output, of which `isa` must be the instruction set.
    fn emulated([emulator, cpu, isa]: [&str; 3], model: &Path, random: bool) -> u64 {
        let mut command = Command::new(emulator);
        command.args(["-cpu", cpu, env!("CARGO_BIN_EXE_goldcrest"), "run", "--deterministic"]);
        command.args(["--json", "-p", "Once upon", "--seed", "7", "--ignore-eos", "-t", "2", "-m"]);
        command.arg(model).args(["-n", &TOKENS.to_string()]).env_remove("GOLDCREST_ISA");
        if !random {
            command.args(["--temp", "0"]);
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{cpu}: {errors}");
        let mut sum = Sum::new();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match (line["id"].as_u64(), line["logprob"].as_f64()) {
                (Some(id), Some(logprob)) => {
                    sum.add(id as u32);
                    sum.add((logprob as f32).to_bits());
                }
                _ => assert_eq!(line["stats"]["isa"], isa, "{cpu}"),
            }
        }
        sum.0
    }
}
