//! Templates that many models share.

use crate::error::{Error, ErrorKind, Result};

/// Name and source. The formats are those of the models' own cards; the names are llama.cpp's.
pub(super) const ALL: &[(&str, &str)] = &[
    ("chatml", include_str!("named/chatml.jinja")),
    ("llama3", include_str!("named/llama3.jinja")),
    ("gemma", include_str!("named/gemma.jinja")),
    ("mistral-v3", include_str!("named/mistral-v3.jinja")),
    ("phi4", include_str!("named/phi4.jinja")),
    ("zephyr", include_str!("named/zephyr.jinja")),
    ("vicuna", include_str!("named/vicuna.jinja")),
];

pub(super) fn source(name: &str) -> Result<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|&(_, source)| source).ok_or_else(|| {
        let known: Vec<_> = ALL.iter().map(|&(name, _)| name).collect();
        let problem =
            format!("no chat template is called \"{name}\" (known: {})", known.join(", "));
        Error::new(ErrorKind::Template, problem)
    })
}
