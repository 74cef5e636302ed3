//! Conversations.
#![cfg(feature = "chat")]

mod common;

use common::models::stories_that_chat;
use goldcrest::chat::{Chat, ChatEvent, Message};
use goldcrest::{CancelToken, GenerationParams, Model, StopReason};

/// Every message and its answer on lines of their own.
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}\n{% endfor %}";

fn model() -> Model {
    Model::from_bytes("chats", stories_that_chat(TEMPLATE)).threads(2).load().unwrap()
}

fn chat(model: &Model) -> Chat {
    Chat::new(model.session().unwrap(), model.chat_template().unwrap().clone())
}

fn few(tokens: usize) -> GenerationParams {
    GenerationParams::greedy().max_tokens(tokens)
}

/// The text of an answer, and why it ended.
fn said(chat: &mut Chat, params: GenerationParams) -> (String, StopReason) {
    let (mut text, mut end) = (String::new(), None);
    for event in chat.answer(params).unwrap() {
        match event.unwrap() {
            ChatEvent::Text(piece) => text += &piece,
            ChatEvent::End(reason) => end = Some(reason),
            other => panic!("{other:?}"),
        }
    }
    (text, end.unwrap())
}

#[test]
fn only_what_is_new_is_run_and_nothing_shows_it() {
    let model = model();
    let mut long = chat(&model);
    let mut prompts = Vec::new();
    for question in ["Once upon a time", "there was a king", "who had a daughter"] {
        long.push(Message::user(question));
        let before = long.session().stats().prompt_tokens;
        let (text, end) = said(&mut long, few(12));
        assert_eq!(end, StopReason::MaxTokens);
        prompts.push(long.session().stats().prompt_tokens - before);

        let mut fresh = chat(&model);
        let asked = long.messages().len() - 1;
        fresh.input_mut().messages = long.messages()[..asked].to_vec();
        assert_eq!(said(&mut fresh, few(12)).0, text, "{question}");
        let answer = long.messages().last().unwrap();
        assert_eq!((answer.role(), answer.get("content").unwrap()), ("assistant", &text.into()));
    }
    let all = model.chat_template().unwrap();
    let input = long.input_mut().clone();
    let all = all.encode(model.tokenizer().unwrap(), &input).unwrap().len();
    assert!(prompts.iter().sum::<usize>() < all, "{prompts:?} of {all}");
}

#[test]
fn an_answer_that_is_cut_short_stays_as_it_is() {
    let model = model();
    let mut chat = chat(&model);
    chat.push(Message::user("Once upon a time"));
    let cancel = CancelToken::new();
    let mut text = String::new();
    let mut ends = Vec::new();
    for event in chat.answer(few(100).cancel(&cancel)).unwrap() {
        match event.unwrap() {
            ChatEvent::Text(piece) => {
                text += &piece;
                cancel.cancel();
            }
            other => ends.push(other),
        }
    }
    assert_eq!(ends, [ChatEvent::End(StopReason::Cancelled)]);
    assert_eq!(chat.messages().last().unwrap(), &Message::assistant(&text));

    // So does one that nobody listens to any more, and a full context is an end.
    chat.push(Message::user("and then"));
    drop(chat.answer(few(100)).unwrap());
    assert_eq!(chat.messages().last().unwrap(), &Message::assistant(""));
    chat.push(Message::user("and then"));
    assert_eq!(
        said(&mut chat, GenerationParams::greedy().ignore_eos(true)).1,
        StopReason::ContextFull
    );
}

#[cfg(feature = "cli")]
mod program {
    use std::io::Write;
    use std::process::{Command, Output, Stdio};

    use super::*;

    fn run(args: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_goldcrest"));
        let pipes = command.args(args).stdin(Stdio::piped());
        let mut child = pipes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A program that fails early does not read it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    #[test]
    fn talks_through_a_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chats.gguf");
        std::fs::write(&path, stories_that_chat(TEMPLATE)).unwrap();
        let args =
            ["chat", "-m", path.to_str().unwrap(), "--temp", "0", "-n", "9", "--system", "A tale"];
        let output = run(&args, "Once upon a time\n\nthere was a king");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

        let model = model();
        let mut chat = chat(&model);
        chat.push(Message::system("A tale"));
        let mut expected = String::new();
        for question in ["Once upon a time", "there was a king"] {
            chat.push(Message::user(question));
            expected += &said(&mut chat, few(9)).0;
            expected += if expected.ends_with('\n') { "" } else { "\n" };
        }
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    #[test]
    fn the_story_model_says_that_it_does_not_chat() {
        let output = run(&["chat"], "Hello\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("does not chat"));
    }
}
