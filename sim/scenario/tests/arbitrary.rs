//! No text makes the reader stumble, and what it reads it reads the same again.

mod common;

use common::{EVERYTHING, parse};
use fairway_scenario::render_all;
use proptest::prelude::*;

/// Reads a text and renders what is wrong with it, in both ways: the renderer must take any place.
fn swallow(text: &str) -> Result<(), TestCaseError> {
    if let Err(diagnostics) = parse(text) {
        prop_assert!(!diagnostics.is_empty());
        let said = render_all(&diagnostics, false);
        prop_assert!(said.contains("error: "), "{}", said);
        render_all(&diagnostics, true);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        swallow(&text)?;
    }

    #[test]
    fn any_yaml_like_text(text in "([a-z]{1,4}|[\\[\\]{}:,&*|>'\"#!%@?-]|[0-9]|\\.\\.|: |- |\n {0,4}|é|\u{1F600}|\t){0,80}") {
        swallow(&text)?;
    }

    /// A good file with a part cut out, repeated or replaced.
    #[test]
    fn mutated_scenario(start in 0..EVERYTHING.len(), length in 0usize..60, insert in "[ -~\n\u{e9}]{0,12}", twice: bool) {
        let end = (start + length).min(EVERYTHING.len());
        let cut = if twice { &EVERYTHING[start..end] } else { "" };
        let text = format!("{}{insert}{cut}{cut}{}", &EVERYTHING[..start], &EVERYTHING[end..]);
        swallow(&text)?;
    }

    /// One scalar of a good file replaced by another kind of thing.
    #[test]
    fn replaced_value(index in 0usize..400, value in prop::sample::select(vec![
        "", "~", "[]", "{}", "[[]]", "{a: {b: c}}", "true", "-1", "1e400", ".nan", "18446744073709551616", "0x10", "''",
        "999999999999h", "1..2", "..", "::", "1.2.3.4/33", "10.0.0.2:0", "service:/:1", "*x", "!!binary aGk=", "\"\\u0000\"",
    ])) {
        let colons: Vec<usize> = EVERYTHING.match_indices(": ").map(|(at, _)| at + 2).collect();
        let start = colons[index % colons.len()];
        let length = EVERYTHING[start..].find([',', '}', ']', '\n']).unwrap();
        let text = format!("{}{value}{}", &EVERYTHING[..start], &EVERYTHING[start + length..]);
        swallow(&text)?;
    }
}

#[test]
fn deep_nesting_is_bounded() {
    for open in ["[", "{a: ", "- ", "a:\n"] {
        let text: String = match open {
            "a:\n" => (0..2_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
            open => open.repeat(100_000),
        };
        let diagnostics = parse(&text).unwrap_err();
        assert!(diagnostics[0].message.contains("nested more deeply than 32 levels"), "{open:?}: {}", diagnostics[0]);
        assert!(diagnostics[0].span.is_some(), "{open:?}");
    }
    assert!(parse(&"? ".repeat(100_000)).is_err());
    // What people write is far from the bound.
    let inline = format!("{}{}", "{a: ".repeat(24), "}".repeat(24));
    common::good(&format!("name: x\ntopology: {{}}\nobjects: {inline}\nsteps: []\n"));
}

#[test]
fn long_lists_of_mistakes_are_cut() {
    let steps: String = (0..5_000).map(|n| format!("  - nonsense{n}: 1\n")).collect();
    let diagnostics = parse(&format!("name: x\ntopology: {{}}\nsteps:\n{steps}")).unwrap_err();
    assert_eq!(diagnostics.len(), 100);
}
