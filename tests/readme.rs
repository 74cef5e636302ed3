//! What the README says that runs is what runs.

use std::collections::BTreeSet;

use goldcrest::Format;

const README: &str = include_str!("../README.md");

/// What stands in backquotes in the row of this title of the table "What runs".
fn named(title: &str) -> BTreeSet<&'static str> {
    let table = README.split("\n## What runs\n").nth(1).expect("a section \"What runs\"");
    let start = format!("| {title} | ");
    let row = table.lines().find(|line| line.starts_with(&start)).expect(title);
    row.split('`').skip(1).step_by(2).collect()
}

#[test]
fn architectures() {
    assert_eq!(named("Architectures"), goldcrest::architectures().collect());
}

#[test]
fn weight_types() {
    assert_eq!(named("Weight types"), Format::ALL.iter().map(|format| format.name()).collect());
}
