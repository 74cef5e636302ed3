//! Chat templates against what Python's Jinja made of them, and llama.cpp's own tests.
#![cfg(feature = "chat")]
#![allow(clippy::print_stderr)]

mod common;

use std::time::{Duration, SystemTime};

use common::assets;
use common::models::{self, stories_that_chat};
use common::reference::json;
use common::safetensors::write_tiny;
use goldcrest::chat::{ChatInput, ChatTemplate, Message};
use goldcrest::load::{Checkpoint, ReadOptions};
use goldcrest::{ErrorKind, Model};
use serde_json::Value;

fn messages(list: &Value) -> Vec<Message> {
    serde_json::from_value(list.clone()).unwrap()
}

/// Noon of the day that the reference had.
fn then() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_752_148_800)
}

/// Templates of which there are renderings, but not themselves.
const NOT_AT_HAND: &[&str] =
    &["Qwen-QwQ-32B", "meta-llama-Llama-3.1-8B-Instruct", "meta-llama-Llama-3.3-70B-Instruct"];

#[test]
fn as_python_renders_them() {
    let Some(assets) = assets() else { return };
    let folder = assets.join("chat-templates");
    let matrix = json(folder.join("python_jinja_rendered_matrix.json"));
    let (mut rendered, mut refused, mut missing) = (0, 0, 0);
    for case in matrix["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let Ok(source) = std::fs::read_to_string(folder.join(format!("{name}.jinja"))) else {
            assert!(NOT_AT_HAND.contains(&name), "{name}");
            missing += 1;
            continue;
        };
        let template = ChatTemplate::parse(&source).unwrap();
        let template = template.token("bos_token", "<BOS>").token("eos_token", "<EOS>");
        let mut input =
            ChatInput::new(messages(&matrix["conversations"][case["case"].as_str().unwrap()]));
        if case["tools"] == true {
            input.tools = matrix["tools"].as_array().unwrap().clone();
        }
        input.add_generation_prompt = case["add_generation_prompt"] == true;
        input.now = Some(then());
        let text = template.render(&input);
        match case["error"].as_str() {
            None => {
                assert_eq!(text.unwrap(), case["rendered"].as_str().unwrap(), "{case}");
                rendered += 1;
            }
            Some(error) => {
                let says = error.strip_prefix("TemplateError: ").unwrap();
                let ours = text.unwrap_err().to_string();
                assert!(ours.contains(says), "{name}: {ours}, not {says}");
                refused += 1;
            }
        }
    }
    eprintln!("{rendered} rendered, {refused} refused, {missing} without a template");
    assert_eq!((rendered + refused, missing), (160, 48));
}

/// Cases that do not come out as llama.cpp has them, and why.
const OTHERWISE: &[(&str, &str)] = &[(
    "ai-sage/GigaChat-20B-A3B-instruct",
    "reads additional_special_tokens, which the case does not have; llama.cpp's Jinja fails, too",
)];

#[test]
fn as_llama_cpp_expects_them() {
    let Some(assets) = assets() else { return };
    let cases = json(assets.join("chat-templates/llama_cpp_chat_template_cases.json"));
    let mut failed = Vec::new();
    for case in cases["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let mut list = messages(&cases["conversation"]);
        list.extend(messages(&case["extra_conversation"]));
        let template = ChatTemplate::parse(&text("template")).unwrap();
        let template = template.token("bos_token", text("bos_token"));
        let template = template.token("eos_token", text("eos_token"));
        let input = ChatInput::new(list);
        // As llama.cpp does where a template has no place for instructions.
        let input = if template.takes_system() { input } else { input.system_folded() };
        let rendered = template.render(&input);
        let expected =
            if text("expected_jinja").is_empty() { "expected" } else { "expected_jinja" };
        if rendered.as_ref().ok() != Some(&text(expected)) {
            eprintln!("--- {name}\n{rendered:?}\n{:?}", text(expected));
            failed.push(name);
        }
    }
    assert_eq!(failed, OTHERWISE.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

/// The templates with names, beside what llama.cpp's of these names write.
#[test]
fn common_templates_are_llama_cpps() {
    let Some(assets) = assets() else { return };
    let cases = json(assets.join("chat-templates/llama_cpp_chat_template_cases.json"));
    for (name, model) in [
        ("chatml", "teknium/OpenHermes-2.5-Mistral-7B"),
        ("llama3", "Llama-3"),
        ("gemma", "google/gemma-7b-it"),
        ("mistral-v3", "Mistral-Large-Instruct-2407"),
        ("phi4", "phi-4"),
        ("vicuna", "eachadea/vicuna-13b-1.1"),
    ] {
        let mut list = cases["cases"].as_array().unwrap().iter();
        let case = list.find(|case| case["name"].as_str().unwrap().starts_with(model)).unwrap();
        let template = ChatTemplate::named(name).unwrap().token("eos_token", "</s>");
        let text = template.render(&ChatInput::new(messages(&cases["conversation"]))).unwrap();
        assert_eq!(text, case["expected"].as_str().unwrap(), "{name}");
    }
    let zephyr = ChatTemplate::named("zephyr").unwrap().token("eos_token", "</s>");
    let input = ChatInput::new([Message::system("Be brief."), Message::user("Hello")]);
    let expected = "<|system|>\nBe brief.</s>\n<|user|>\nHello</s>\n<|assistant|>\n";
    assert_eq!(zephyr.render(&input).unwrap(), expected);
    assert!(ChatTemplate::names().all(|name| ChatTemplate::named(name).unwrap().takes_system()));
    assert!(ChatTemplate::named("chatgpt").unwrap_err().to_string().contains("chatml"));
}

const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
                        {% if add_generation_prompt %}{{ bos_token }}assistant:{% endif %}";

#[test]
fn a_model_has_its_template() {
    let bytes = stories_that_chat(TEMPLATE);
    let model = Model::from_bytes("chats", bytes.clone()).load().unwrap();
    let template = model.chat_template().unwrap();
    let input = ChatInput::new([Message::user("Hello")]);
    let bos = model.tokenizer().unwrap().bos().unwrap();
    let bos_text = model.tokenizer().unwrap().id_to_token(bos).unwrap();
    assert_eq!(template.render(&input).unwrap(), format!("user: Hello\n{bos_text}assistant:"));
    // The text begins with the beginning of a text, once.
    let ids = template.encode(model.tokenizer().unwrap(), &input).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == bos).count(), 2);
    assert_eq!(ids[0], bos);
    let first = model.for_chat(ChatTemplate::parse("{{ bos_token }}Hello").unwrap());
    let ids = first.encode(model.tokenizer().unwrap(), &input).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == bos).count(), 1);

    // So does what it is packed into; the model of the repository has none.
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed");
    Model::from_bytes("chats", bytes).pack(&packed).unwrap();
    assert!(Model::open(&packed).unwrap().chat_template().is_ok());
    let error = Model::open(models::stories()).unwrap().chat_template().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Template);
}

#[test]
fn a_folder_has_its_templates_in_one_file_or_two() {
    let folder = tempfile::tempdir().unwrap();
    write_tiny(folder.path());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let open = || Checkpoint::open(folder.path(), &ReadOptions::default()).unwrap();
    let rendered = |template: ChatTemplate| {
        template.render(&ChatInput::new([Message::user("Hello")])).unwrap()
    };
    let find = || ChatTemplate::from_checkpoint(&open()).unwrap().map(rendered);
    write("tokenizer.json", "{}");
    assert_eq!(find(), None);
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "{{ bos_token }}{{ eos_token }}", "bos_token": {"content": "<s>"},
            "eos_token": "</s>"}"#,
    );
    assert_eq!(find().unwrap(), "<s></s>");
    write("chat_template.jinja", "{{ bos_token }}in a file");
    assert_eq!(find().unwrap(), "<s>in a file");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "usual"},
            {"name": "tool_use", "template": "with tools"}]}"#,
    );
    assert_eq!(find().unwrap(), "usual");
    let named = |name| ChatTemplate::from_checkpoint_named(&open(), name);
    assert_eq!(rendered(named("tool_use").unwrap()), "with tools");
    assert!(named("rag").unwrap_err().to_string().contains("rag"));
}

#[cfg(feature = "cli")]
mod program {
    use std::process::{Command, Output};

    use super::*;

    fn run(args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_goldcrest")).args(args).output().unwrap()
    }

    fn text(output: Output) -> String {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn prints_a_prompt_and_asks_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let model = path("chats.gguf");
        std::fs::write(&model, stories_that_chat(TEMPLATE)).unwrap();
        std::fs::write(
            path("messages.json"),
            r#"[{"role": "system", "content": "Once"}, {"role": "user", "content": "upon"}]"#,
        )
        .unwrap();
        let list = path("messages.json");
        let prompt = text(run(&["template", "-m", &model, "--messages", &list]));
        assert_eq!(prompt, "system: Once\nuser: upon\n");
        let add = "--add-generation-prompt";
        let chatml = ["template", "--template", "chatml", "--messages", &list, add];
        let end = "<|im_end|>\n<|im_start|>assistant\n";
        assert!(text(run(&chatml)).ends_with(&format!("upon{end}")));

        let prompt = text(run(&["template", "-m", &model, "--messages", &list, add]));
        let greedy = ["-m", &model, "--temp", "0", "-n", "12", "-p"];
        let asked = [&["run", "--chat", "--system", "Once"][..], &greedy, &["upon"]].concat();
        let continued = [&["run"][..], &greedy, &[&prompt]].concat();
        let (asked, continued) = (run(&asked), run(&continued));
        assert!(!asked.stdout.is_empty());
        let stderr = String::from_utf8_lossy(&continued.stderr).into_owned();
        assert!(stderr.contains("--chat"), "{stderr}");
        assert_eq!(text(asked), text(continued));
    }

    #[test]
    fn says_what_is_missing() {
        let stories = models::stories();
        let stories = stories.to_str().unwrap();
        for (args, says) in [
            (&["run", "-m", stories, "--chat", "-p", "Hello"][..], "--chat-template"),
            (&["run", "-m", stories, "--system", "x", "-p", "Hello"], "--chat"),
            (&["template", "-m", stories, "--messages", "none.json"], "none.json"),
            (&["run", "--chat", "--chat-template", "nowhere", "-p", "Hello"], "chatml"),
        ] {
            let output = run(args);
            assert!(!output.status.success());
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(stderr.contains(says), "{args:?}: {stderr}");
        }
    }
}
