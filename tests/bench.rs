//! The commands that measure, without a look at the figures.
#![cfg(feature = "cli")]

use std::process::{Command, Output};

use goldcrest::Isa;
use serde_json::Value;

fn goldcrest(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_goldcrest"));
    command.args(args).env_remove("GOLDCREST_ISA").output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = goldcrest(args);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {message}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bench_writes_a_model_and_measures_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("random.gguf");
    let file = file.to_str().unwrap();
    let shape = ["bench", "--shape", "smollm2-135m", "--quant", "Q4_K_M"];
    assert_eq!(stdout(&[&shape[..], &["--save", file, "-r", "0"]].concat()), "");
    assert!(stdout(&["inspect", file]).contains("smollm2-135m"));

    let quick = ["-p", "3", "-n", "2", "-r", "2", "-t", "1,2", "--probe", "1"];
    let json = stdout(&[&["bench", "-m", file, "--json"], &quick[..]].concat());
    let lines: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tests: Vec<_> = lines.iter().map(|line| (&line["test"], &line["threads"])).collect();
    assert_eq!(tests.len(), 4);
    for (line, (test, threads)) in
        lines.iter().zip([("pp3", 1), ("tg2", 1), ("pp3", 2), ("tg2", 2)])
    {
        assert_eq!((line["test"].as_str(), line["threads"].as_u64()), (Some(test), Some(threads)));
        assert_eq!(line["model"], "random");
        assert_eq!(line["type"], "Q4_K_M");
        assert_eq!(line["isa"], Isa::best().name());
        let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
        let [min, median, max] = ["min", "median", "max"].map(|key| &line["tps"][key]);
        assert!(min.as_f64() > Some(0.0) && min.as_f64() <= median.as_f64());
        assert!(median.as_f64() <= max.as_f64());
        assert!((100e6..110e6).contains(&number("bytes_per_token")));
        assert!(number("load_seconds") > 0.0);
        if cfg!(target_os = "linux") {
            assert!(number("peak_rss_bytes") > 100e6);
            assert!(number("cpu_seconds_per_token") > 0.0);
        }
        let decode = test.starts_with("tg");
        assert_eq!(line["bandwidth_gbs"].is_number(), decode);
        assert_eq!(line["bandwidth_fraction"].is_number(), decode);
    }
    let table = stdout(&[&["bench", "-m", file], &quick[..]].concat());
    assert!(table.contains("tokens/s") && table.contains("tg2"), "{table}");
}

#[test]
fn bench_refuses_what_makes_no_sense() {
    for args in [
        &["bench"][..],
        &["bench", "--shape", "gpt-5"],
        &["bench", "--shape", "smollm2-135m", "--quant", "q9_9"],
        &["bench", "-m", "a.gguf", "--shape", "smollm2-135m"],
        &["bench", "-m", "a.gguf", "--quant", "q4_0"],
        &["bench", "-m", "a.gguf", "-t", "0"],
        &["bench", "-m", "a.gguf", "--isa", "mmx"],
    ] {
        assert_eq!(goldcrest(args).status.code(), Some(2), "{args:?}");
    }
    assert_eq!(goldcrest(&["bench", "-m", "no-such-file.gguf"]).status.code(), Some(1));
}

#[test]
fn kernels_are_listed() {
    let list = stdout(&["kernels", "--list"]);
    assert!(
        list.contains("portable-matvec-q4_k") && list.contains("portable-matmul-f16"),
        "{list}"
    );
    for isa in Isa::supported() {
        assert!(list.contains(&format!("{isa}-matvec-q8_0\n")), "{isa}");
        assert!(list.contains(&format!("{isa}-matvec-iq3_s  (slower decode)\n")), "{isa}");
    }
}
