//! The program, as its users run it.
#![cfg(feature = "cli")]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::gguf::{Gguf, tiny};
use common::models::{PROMPT, STORY, VOCABULARY, random, stories_in_floats, stories_with};
use common::safetensors::write_tiny;
use common::{assets, greedy, logits, models, told};
use goldcrest::load::GgmlType;
use goldcrest::{KvType, Model};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_goldcrest");

/// The model of the repository, as an argument.
fn stories() -> String {
    models::stories().to_str().unwrap().to_owned()
}

/// A file of the assets.
fn asset(name: &str) -> Option<String> {
    Some(assets()?.join(name).to_str().unwrap().to_owned())
}

/// A folder that is gone afterwards, to write files to.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// The path of a new file.
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.0.path().join(name), bytes).unwrap();
        self.path(name)
    }
}

/// Runs a command with this standard input.
fn execute(mut command: Command, input: &[u8]) -> Output {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    // A program that fails early does not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(args).env_remove("GOLDCREST_ISA");
    command
}

fn goldcrest(args: &[&str]) -> Output {
    execute(command(args), b"")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output of a success.
fn stdout_of(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn stdout(args: &[&str]) -> String {
    stdout_of(goldcrest(args))
}

/// Fails with this code and with an error that contains all of `parts`.
#[track_caller]
fn fails(args: &[&str], code: i32, parts: &[&str]) {
    let output = goldcrest(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(message.starts_with("error: "), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{args:?}: no {part:?} in {message}");
    }
}

fn lines(json: &str) -> Vec<Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn run_tells_the_librarys_story() {
    let model = Model::open(models::stories()).unwrap();
    let want = told(&model, PROMPT, greedy(60));
    assert!(want.starts_with(STORY), "{want}");
    let story = stories();
    let run = ["run", "-m", &story, "-p", PROMPT, "-n", "60", "--temp", "0"];
    assert_eq!(stdout(&run), format!("{want}\n"));
    for kv in ["f32", "q8_0"] {
        let text = stdout(&[&run[..], &["--kv", kv]].concat());
        assert!(text.starts_with(STORY), "{kv}: {text}");
    }
}

/// Floats that 8 bits hold exactly are the file of 8 bits.
#[test]
fn run_quantises_while_loading() {
    let folder = Folder::new();
    let floats = folder.write("floats.gguf", stories_in_floats());
    let tell = |model: &str, more: &[&str]| {
        let run = ["run", "-m", model, "-p", PROMPT, "-n", "60", "--temp", "0"];
        stdout(&[&run[..], more].concat())
    };
    assert_eq!(tell(&floats, &["--quant", "q8_0"]), tell(&stories(), &[]));
    assert!(tell(&floats, &["--quant", "Q4_0"]).starts_with(" there"));
    assert!(tell(&floats, &[]).starts_with(STORY));
}

fn official() -> Option<String> {
    let path = asset("models/stories260K/official_expected_t0_n200.txt")?;
    Some(std::fs::read_to_string(path).unwrap().trim_end().to_owned())
}

#[test]
fn run_tells_the_official_story() {
    let Some(official) = official() else { return };
    for model in ["stories260K-F32.gguf", "hf-llama"] {
        let model = asset(&format!("models/stories260K/derived/{model}")).unwrap();
        for kv in ["f16", "f32"] {
            let args = ["run", "-m", &model, "-p", "", "-n", "200", "--temp", "0", "--kv", kv];
            assert_eq!(stdout(&args).trim_end(), official, "{model} {kv}");
        }
    }
}

#[test]
fn run_tells_a_story_from_every_quantised_file() {
    let Some(folder) = asset("models/stories260K/derived") else { return };
    for format in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"] {
        let model = format!("{folder}/stories260K-{format}.gguf");
        let text = stdout(&["run", "-m", &model, "-p", "", "-n", "60", "--temp", "0"]);
        assert!(text.starts_with("Once upon a time, there was a "), "{format}: {text}");
    }
    for quant in ["q8_0", "Q4_0", "q5_k", "iq4_nl"] {
        let model = format!("{folder}/hf-llama");
        let args = ["run", "-m", &model, "-p", "", "-n", "60", "--temp", "0", "--quant", quant];
        assert!(stdout(&args).starts_with("Once upon a time, there was a "), "{quant}");
    }
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_standard_input() {
    let (model, folder) = (stories(), Folder::new());
    let file = folder.write("prompt.txt", format!("{PROMPT}\n"));
    let run = ["run", "-m", &model, "-n", "12", "--temp", "0"];
    let tell = |args: &[&str]| stdout(&[&run, args].concat());
    let text = tell(&["-p", PROMPT]);
    assert!(text.starts_with(STORY), "{text}");
    assert_eq!(tell(&["-f", &file]), text);
    assert_eq!(stdout_of(execute(command(&run), format!("{PROMPT}\r\n").as_bytes())), text);
    assert!(!tell(&["-p", "- a list"]).is_empty());
    assert_eq!(tell(&["-p", PROMPT, "--echo"]), format!("{PROMPT}{text}"));
}

#[test]
fn run_in_json_tells_tokens_and_statistics() {
    let model = stories();
    let args =
        ["run", "-m", &model, "-p", PROMPT, "--ignore-eos", "-n", "8", "--seed", "3", "-t", "1"];
    let plain = goldcrest(&args);
    let report = stderr(&plain);
    for part in ["load", "prompt", "decode", "tokens/s", "1 thread", "seed    3"] {
        assert!(report.contains(part), "{part}: {report}");
    }
    let output = goldcrest(&[&args[..], &["--json"]].concat());
    assert_eq!(stderr(&output), "");
    let lines = lines(&stdout_of(output));
    let (end, tokens) = lines.split_last().unwrap();
    assert_eq!(tokens.len(), 8);
    let text: String = tokens.iter().map(|token| token["text"].as_str().unwrap()).collect();
    assert_eq!(text, stdout_of(plain).trim_end_matches('\n'));
    for token in tokens {
        assert!(token["id"].as_u64().is_some() && token["logprob"].as_f64().unwrap() <= 0.0);
    }
    assert_eq!(end["stop_reason"], "max_tokens");
    assert_eq!((&end["stats"]["threads"], &end["stats"]["seed"]), (&1.into(), &3.into()));
    assert!(end["stats"]["prompt_tokens"].as_u64().unwrap() > 1);
    #[cfg(target_os = "linux")]
    assert!(end["stats"]["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
}

#[test]
fn stop_strings_end_a_text() {
    let model = stories();
    let args =
        ["run", "-m", &model, "-p", PROMPT, "--temp", "0", "--stop", "girl", "-r", "nowhere"];
    assert_eq!(stdout(&args), " there lived a little \n");
    let json = lines(&stdout(&[&args[..], &["--json"]].concat()));
    assert_eq!(json.last().unwrap()["stop_reason"], "stop_string");
}

#[test]
fn a_full_context_is_an_error_where_more_was_asked_for() {
    let model = stories();
    let run = ["run", "-m", &model, "-p", PROMPT, "-c", "16", "--temp", "0"];
    let text = stdout(&run);
    assert!(text.starts_with(STORY), "{text}");
    let args = [&run[..], &["-n", "100"]].concat();
    fails_after_text(&args, &text);
    let json = goldcrest(&[&args[..], &["--json"]].concat());
    assert_eq!(json.status.code(), Some(1));
    let json = lines(std::str::from_utf8(&json.stdout).unwrap());
    assert_eq!(json.last().unwrap()["stop_reason"], "context_full");
    assert_eq!(stdout(&[&run[..], &["-n", "0"]].concat()), "");
}

#[track_caller]
fn fails_after_text(args: &[&str], text: &str) {
    let output = goldcrest(args);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), text);
    assert!(stderr(&output).contains("error: the context of 16 tokens is full"));
}

#[test]
fn failures_exit_with_1() {
    let (model, folder) = (stories(), Folder::new());
    let bytes = std::fs::read(&model).unwrap();
    let half = &bytes[..bytes.len() / 2];
    let (cut, magic) = (folder.write("cut", half), folder.write("magic", b"GGUX....."));
    let latin = folder.write("latin", b"caf\xe9");
    let v1 = folder.write("v1", Gguf { version: 1, ..Gguf::default() }.build());
    let vocabulary = folder.write("vocabulary", Gguf { tensors: vec![], ..tiny("llama") }.build());
    fails(&["run", "-m", "no-such-file", "-p", "x"], 1, &["no-such-file: "]);
    fails(&["run", "-m", &magic, "-p", "x"], 1, &["magic: ", "GGUX"]);
    fails(&["run", "-m", &cut, "-p", "x"], 1, &["cut: "]);
    fails(&["run", "-m", &v1, "-p", "x"], 1, &["v1: ", "version 1"]);
    fails(&["run", "-m", &vocabulary, "-p", "x"], 1, &["vocabulary: "]);
    fails(&["run", "-m", &model, "-f", &latin], 1, &["latin: not UTF-8 at byte 3"]);
    fails(&["run", "-m", &model, "-f", "no-such-file"], 1, &["no-such-file: "]);
    let long = "and then ".repeat(400);
    fails(&["run", "-m", &model, "-p", &long], 1, &["tokens, the context 256"]);
    fails(&["logits", "-m", &model, "-p", &long, "-o", &cut], 1, &["tokens, the context 256"]);
    let nowhere = folder.path("no/folder");
    fails(&["logits", "-m", &model, "-p", "x", "-o", &nowhere], 1, &["no/folder"]);
    fails(&["inspect", &magic], 1, &["magic: "]);
    fails(&["tokenize", "-m", &cut, "x"], 1, &["cut: "]);
    assert!(std::fs::read(&cut).unwrap() == half, "an output was touched");
}

#[test]
fn real_files_that_do_not_run_exit_with_1() {
    let Some(v1) = asset("models/stories260K/tinyllamas-stories-260k-f32.gguf") else { return };
    fails(&["run", "-m", &v1, "-p", "x"], 1, &["version 1"]);
    let vocabulary = asset("vocab/ggml-vocab-llama-spm.gguf").unwrap();
    fails(&["run", "-m", &vocabulary, "-p", "x"], 1, &["ggml-vocab-llama-spm.gguf: "]);
}

#[test]
#[cfg(feature = "embedded-model")]
fn without_a_model_the_one_in_the_program_runs() {
    let story = stdout(&["run", "-p", PROMPT, "-n", "12", "--temp", "0"]);
    assert!(story.starts_with(STORY), "{story}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    let model = stories();
    #[cfg(not(feature = "embedded-model"))]
    fails(&["run", "-p", "x"], 2, &["--model"]);
    fails(&["fly"], 2, &["fly"]);
    let run = |args: &[&str], parts: &[&str]| {
        fails(&[&["run", "-m", &model][..], args].concat(), 2, parts);
    };
    run(&["-p", "x", "--isa", "mmx"], &["mmx", "avx2", "portable"]);
    run(&["-p", "x", "--quant", "q9_k"], &["q2_k", "q4_0"]);
    run(&["-p", "x", "--temp", "nan"], &["temperature is NaN"]);
    run(&["-p", "x", "--top-p", "1.5"], &["top_p is 1.5"]);
    run(&["-p", "x", "--stop", ""], &["stop string is empty"]);
    run(&["-p", "x", "-n", "many"], &["many"]);
    run(&["-p", "x", "-t", "0"], &["0"]);
    run(&["-p", "x", "-c", "0"], &["context of 0"]);
    run(&["-p", "x", "-c", "1000000"], &["1 to 256"]);
    run(&["-p", "x", "-f", "y"], &["cannot be used with"]);
    run(&[], &["the prompt is empty: standard input"]);
    let logits = ["logits", "-m", &model, "-o", "never-written", "--ids"];
    fails(&[&logits[..], &["1,9999"]].concat(), 2, &["token id 9999"]);
    fails(&[&logits[..], &["1,x"]].concat(), 2, &["'x'"]);
    let mut unknown = command(&["run", "-m", &model, "-p", "x"]);
    unknown.env("GOLDCREST_ISA", "mmx");
    let output = execute(unknown, b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("GOLDCREST_ISA: unknown instruction set \"mmx\""));
}

/// A model that puts no token before a text has nothing to continue after an empty prompt.
/// The memory at hand is what an argument says.
#[test]
fn more_than_there_is_at_hand_is_refused_with_what_would_fit() {
    let folder = Folder::new();
    let model = folder.write("long.gguf", stories_with(&[("llama.context_length", 1 << 20)]));
    let args = ["run", "-m", &model, "-p", PROMPT, "-n", "1", "--memory", "64"];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    let asked = ["-c", "1000000"];
    let parts = ["needs", "of state for a context of 1000000 tokens", "64.0 MiB are at hand"];
    fails(&with(&asked), 1, &parts);
    let text = stderr(&goldcrest(&with(&asked)));
    let (_, rest) = text.split_once("what fits: a context of ").expect("a context that fits");
    let fits: usize = rest.split_once(' ').unwrap().0.parse().unwrap();

    for (context, good) in [(fits, true), (fits + 1, false)] {
        let output = goldcrest(&[&args[..], &["-c", &context.to_string()]].concat());
        assert_eq!(output.status.success(), good, "{context}: {}", stderr(&output));
    }
    stdout(&with(&["-c", "auto"]));
    stdout(&[&with(&asked)[..], &["--no-memory-check"]].concat());
    fails(&with(&["-c", "most"]), 2, &["\"auto\""]);

    let loader = || Model::loader(&model).memory(64 << 20);
    let chosen = loader().longest_context().load().unwrap().context();
    assert!(chosen < fits && chosen > fits * 3 / 4, "{chosen} of {fits}");
    // What a packed file's weights took is left to the context, but for what is mapped.
    let packed = folder.path("long.gcpack");
    loader().pack(&packed).unwrap();
    let load = |context| Model::loader(&packed).memory(64 << 20).context(context).load();
    assert_eq!(load(fits + 1).unwrap().context(), fits + 1);
    assert_eq!(load(1_000_000).unwrap_err().kind(), goldcrest::ErrorKind::Memory);
}

#[test]
fn a_prompt_of_no_tokens_is_empty() {
    let (model, folder) = (stories(), Folder::new());
    let bare = folder.write("bare", stories_with(&[("tokenizer.ggml.add_bos_token", 0)]));
    fails(&["run", "-m", &bare, "-p", ""], 2, &["the prompt is empty"]);
    assert!(!stdout(&["run", "-m", &model, "-p", "", "-n", "9", "--ignore-eos"]).is_empty());
}

/// The same of a Hugging Face folder.
#[test]
fn a_prompt_of_no_tokens_is_empty_for_tokenizer_json() {
    let Some(source) = asset("models/stories260K/derived/hf-llama") else { return };
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    for (file, key) in [("tokenizer", "post_processor"), ("tokenizer_config", "add_bos_token")] {
        let file = copy.path().join(file).with_extension("json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        json[key] = if key.starts_with("add") { false.into() } else { Value::Null };
        std::fs::write(&file, json.to_string()).unwrap();
    }
    let model = copy.path().to_str().unwrap();
    fails(&["run", "-m", model, "-p", ""], 2, &["the prompt is empty"]);
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let model = stories();
    let mut command = command(&["run", "-m", &model, "-p", "x", "--ignore-eos"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_instruction_set_can_be_chosen() {
    let model = stories();
    let isa_of = |command: Command| {
        let json = lines(&stdout_of(execute(command, b"")));
        json.last().unwrap()["stats"]["isa"].as_str().unwrap().to_owned()
    };
    let args = ["run", "-m", &model, "-p", "x", "-n", "2", "--json"];
    assert_eq!(isa_of(command(&[&args[..], &["--isa", "portable"]].concat())), "portable");
    let mut by_variable = command(&args);
    by_variable.env("GOLDCREST_ISA", "portable");
    assert_eq!(isa_of(by_variable), "portable");
    assert_eq!(isa_of(command(&args)), goldcrest::Isa::best().name());
}

#[test]
fn tokenize_gives_the_librarys_ids() {
    let path = stories();
    let model = Model::open(&path).unwrap();
    for text in [PROMPT, "", "  two  spaces\n\n", "Zürich 日本 \u{1f426}"] {
        let ids = stdout_of(execute(command(&["tokenize", "-m", &path, "--ids"]), text.as_bytes()));
        let want = model.tokenizer().unwrap().encode(text).unwrap();
        let want: Vec<String> = want.iter().map(u32::to_string).collect();
        assert_eq!(ids.trim_end(), want.join(" "), "{text:?}");
    }
    let table = stdout(&["tokenize", "-m", &path, "Once"]);
    assert!(table.starts_with("      0  \"<|endoftext|>\"\n"), "{table}");
}

#[test]
fn tokenize_gives_the_ids_of_a_vocabulary() {
    let Some(model) = asset("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let read = |kind: &str| std::fs::read_to_string(format!("{model}.{kind}")).unwrap();
    let (texts, ids) = (read("inp"), read("out"));
    let separator = "\n__ggml_vocab_test__\n";
    let mut compared = 0;
    for (text, ids) in texts.split_terminator(separator).zip(ids.lines()) {
        let args = ["tokenize", "-m", &model, "--ids", "--no-special"];
        let ours = stdout_of(execute(command(&args), text.as_bytes()));
        assert_eq!(ours.trim_end(), ids.trim(), "{text:?}");
        compared += 1;
    }
    assert!(compared > 30);
    let table = stdout(&["tokenize", "-m", &model, "Hello"]);
    assert_eq!(table, "      1  \"<s>\"\n  15043  \"▁Hello\"\n");
    assert_eq!(stdout(&["tokenize", "-m", &model, "", "--ids"]), "1\n");
}

#[test]
fn logits_are_the_librarys() {
    let folder = Folder::new();
    let model = folder.write("long.gguf", stories_with(&[("llama.context_length", 512)]));
    let output = folder.path("logits.safetensors");
    // More than one chunk of rows.
    let ids = models::ids(300, VOCABULARY);
    let list = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let args = ["logits", "-m", &model, "--ids", &list, "-o", &output, "--kv", "f32", "-t", "2"];
    assert_eq!(stdout(&args), "");
    let loaded = Model::loader(&model).kv(KvType::F32).threads(2).load().unwrap();
    let (shape, ours) = read_logits(Path::new(&output));
    assert_eq!(shape, [300, VOCABULARY]);
    assert!(ours == logits(&loaded, &ids));

    stdout(&["logits", "-m", &model, "-p", PROMPT, "-o", &output]);
    let tokens = loaded.tokenizer().unwrap().encode(PROMPT).unwrap().len();
    assert_eq!(read_logits(Path::new(&output)).0, [tokens, VOCABULARY]);
    let left: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

fn read_logits(path: &Path) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.names(), ["logits"]);
    let logits = tensors.tensor("logits").unwrap();
    assert_eq!(logits.dtype(), safetensors::Dtype::F32);
    let floats = logits.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
    (logits.shape().to_vec(), floats.collect())
}

#[test]
fn inspect_tells_people_and_programs() {
    let folder = Folder::new();
    let model = folder.write("random.gguf", random(GgmlType::Q4_K).build());
    let text = stdout(&["inspect", &model]);
    for part in ["GGUF version 3", "llama", "Q4_K", "runs          yes", "token_embd.weight"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let read = |path: &str| -> Value {
        serde_json::from_str(&stdout(&["inspect", path, "--json"])).unwrap()
    };
    let json = read(&stories());
    assert_eq!(json["format"], "gguf");
    assert_eq!(json["runnable"], true);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 2 + 3 * 9);
    write_tiny(folder.0.path());
    assert_eq!(read(folder.0.path().to_str().unwrap())["format"], "huggingface");
}

#[test]
fn help_and_completions_are_there() {
    let help = stdout(&["run", "--help"]);
    for flag in ["--prompt", "--temp", "--isa", "--quant", "GOLDCREST_ISA", "Examples:"] {
        assert!(help.contains(flag), "{flag}");
    }
    let script = stdout(&["completions", "bash"]);
    for word in ["_goldcrest()", "tokenize", "--repeat-penalty", "avx2"] {
        assert!(script.contains(word), "{word}");
    }
    assert!(stdout(&["--version"]).starts_with("goldcrest "));
}

/// One binary for all processors: under an emulated Core 2 (2006, SSSE3) and Nehalem (2008,
/// SSE4.2) it tells the same story.
#[cfg(target_arch = "x86_64")]
mod old_cpus {
    use std::path::PathBuf;

    use super::*;
    use common::{emulator, skip};

    /// The program that `cargo build --release` makes: what `GOLDCREST_RELEASE_BIN` names, this very
    /// one in a release test, else the one beside it.
    fn release_program() -> Option<PathBuf> {
        let target = Path::new(PROGRAM).ancestors().nth(2).unwrap();
        let beside = target.join(format!("release/goldcrest{}", std::env::consts::EXE_SUFFIX));
        let program = std::env::var_os("GOLDCREST_RELEASE_BIN").map_or(beside, PathBuf::from);
        if program.is_file() {
            return Some(program);
        }
        skip(&format!(
            "no {} (cargo build --release, or set GOLDCREST_RELEASE_BIN)",
            program.display()
        ));
        None
    }

    #[test]
    fn one_story() {
        let Some(emulator) = emulator() else { return };
        let Some(program) = release_program() else { return };
        tell_the_same(emulator, &program, &stories(), PROMPT);
    }

    #[test]
    fn the_official_story() {
        let Some(official) = official() else { return };
        let Some(emulator) = emulator() else { return };
        let Some(program) = release_program() else { return };
        for format in ["F32", "Q8_0", "Q4_0"] {
            let model = format!("models/stories260K/derived/stories260K-{format}.gguf");
            let text = tell_the_same(emulator, &program, &asset(&model).unwrap(), "");
            assert!(format != "F32" || text == official, "{text}");
        }
    }

    /// What both say, and this machine with their instruction sets.
    fn tell_the_same(emulator: &str, program: &Path, model: &str, prompt: &str) -> String {
        let told = [("core2duo", "sse2"), ("Nehalem", "ssse3")].map(|(cpu, isa)| {
            let tell = |mut command: Command| {
                command
                    .args(["run", "-m", model, "-p", prompt, "-n", "200", "--temp", "0", "--json"]);
                let json = lines(&stdout_of(execute(command, b"")));
                let (end, tokens) = json.split_last().unwrap();
                assert_eq!(end["stats"]["isa"], isa, "{cpu}");
                tokens.iter().map(|token| token["text"].as_str().unwrap()).collect::<String>()
            };
            let (mut emulated, mut here) = (Command::new(emulator), Command::new(program));
            emulated.args(["-cpu", cpu]).arg(program).env_remove("GOLDCREST_ISA");
            here.env("GOLDCREST_ISA", isa);
            let text = tell(emulated);
            assert_eq!(text, tell(here), "{cpu} {model}");
            text
        });
        assert_eq!(told[0], told[1]);
        told[0].clone()
    }
}

#[test]
fn a_packed_file_runs_and_is_inspected() {
    let (story, folder) = (stories(), Folder::new());
    let packed = &*folder.path("story.gcpack");
    assert_eq!(stdout(&["pack", &story, packed]), "");
    let tell = |model: &str, more: &[&str]| {
        let run = ["run", "-m", model, "-p", PROMPT, "-n", "20", "--temp", "0"];
        stdout(&[&run[..], more].concat())
    };
    assert_eq!(tell(packed, &[]), tell(&story, &[]));
    assert_eq!(tell(packed, &["--no-mmap"]), tell(&story, &[]));
    assert_eq!(tell(packed, &["--deterministic"]), tell(&story, &["--deterministic"]));
    assert!(tell(packed, &["--kv", "Q8_0"]).starts_with(STORY));

    let shown = stdout(&["inspect", packed, "--verify"]);
    for part in ["packed, version 1", "packed from", "(3133056 bytes)", "runs          yes"] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    let json: Value = serde_json::from_str(&stdout(&["inspect", packed, "--json"])).unwrap();
    assert_eq!((&json["format"], &json["source"]["bytes"]), (&"packed".into(), &3_133_056.into()));

    let mut bytes = std::fs::read(packed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(packed, bytes).unwrap();
    fails(&["inspect", packed, "--verify"], 1, &["story.gcpack", "panels", "checksum"]);
    fails(&["pack", &story, &story], 2, &["replace its source"]);
    fails(&["pack", &story, "/nowhere/model.gcpack"], 1, &["/nowhere/model.gcpack.tmp"]);
}
