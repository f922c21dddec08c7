use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn every_operator_holds_as_calico_says() {
    let object = labels(&[("app", "web"), ("tier", "front"), ("empty", "")]);
    for (selector, expected) in [
        ("", true),
        ("all()", true),
        ("all( )", true),
        ("app == 'web'", true),
        ("app==\"web\"", true),
        ("app != 'web'", false),
        ("absent != 'web'", true),
        ("app in {'web', 'db'}", true),
        ("app in{'db',}", false),
        ("app in {}", false),
        ("app not in {}", true),
        ("app notin {'db'}", true),
        ("absent not in {'web'}", true),
        ("app contains 'e'", true),
        ("app contains'x'", false),
        ("app starts with 'we'", true),
        ("app startswith 'eb'", false),
        ("app ends  with 'eb'", true),
        ("has(empty)", true),
        ("has( absent )", false),
        ("!has(absent)", true),
        ("empty == ''", true),
        ("absent == ''", false),
        ("!app == 'db'", true),
        ("!!has(app)", true),
        ("app == 'db' && tier == 'x' || tier == 'front'", true),
        ("app == 'db' && (tier == 'x' || tier == 'front')", false),
        ("!(app == 'web') || has(tier)", true),
        ("in == 'x'", false),
        ("has(in) || contains == 'y'", false),
        ("app ==\n  'web'", true),
    ] {
        let parsed = parse(selector).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parsed.matches(&object), expected, "{selector}");
    }
}

#[test]
fn errors_point_at_the_character() {
    for (selector, position, expected) in [
        ("app = 'x'", 5, "an operator"),
        ("app == x", 8, "a quoted text"),
        ("app == 'x", 8, "a closing quote"),
        ("app == 'x' &&", 14, "a label"),
        ("(app == 'x'", 12, "`)`"),
        ("app == 'x')", 11, "`&&`, `||` or the end"),
        ("app in ['x']", 8, "a label of"),
        ("app in {'x'", 12, "a quoted text, `,` or `}`"),
        ("has(app", 8, "a closing parenthesis"),
        ("has()", 5, "a label of"),
        ("é == 'x'", 1, "a label of"),
    ] {
        let error = parse(selector).unwrap_err();
        assert_eq!(error.position, position, "{error}");
        assert!(error.expected.starts_with(expected), "{error}");
    }
}

#[test]
fn nesting_is_bounded_and_negation_is_not_nesting() {
    let nested = format!("{}all(){}", "(".repeat(65), ")".repeat(65));
    assert!(parse(&nested).is_err());
    assert!(parse(&nested[1..nested.len() - 1]).is_ok());
    assert!(parse(&format!("{}all()", "!".repeat(10_000))).is_ok());
}

fn expression() -> impl Strategy<Value = Expression> {
    let key = proptest::sample::select(vec!["app", "a/b", "x.y-z", "in", "has"]).prop_map(Arc::<str>::from);
    let text = "[a-z \"{}()&|!,]{0,3}".prop_map(Arc::<str>::from);
    let set = proptest::collection::btree_set(text.clone(), 0..4)
        .prop_map(|set| set.into_iter().collect::<Box<[Arc<str>]>>());
    let leaf = prop_oneof![
        Just(Expression::All),
        Just(Expression::Global),
        key.clone().prop_map(Expression::Has),
        (key.clone(), text.clone()).prop_map(|(k, v)| Expression::Equals(k, v)),
        (key.clone(), text.clone()).prop_map(|(k, v)| Expression::NotEquals(k, v)),
        (key.clone(), text.clone()).prop_map(|(k, v)| Expression::Contains(k, v)),
        (key.clone(), text.clone()).prop_map(|(k, v)| Expression::StartsWith(k, v)),
        (key.clone(), text).prop_map(|(k, v)| Expression::EndsWith(k, v)),
        (key.clone(), set.clone()).prop_map(|(k, v)| Expression::In(k, v)),
        (key, set).prop_map(|(k, v)| Expression::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|part| Expression::Not(Box::new(part))),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|parts| Expression::And(parts.into())),
            proptest::collection::vec(inner, 2..4).prop_map(|parts| Expression::Or(parts.into())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_displayed_parses_to_the_same(expression in expression()) {
        let text = expression.to_string();
        prop_assert_eq!(parse(&text).unwrap(), expression, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "[ a-z'\"(){}!=&|,\u{e9}]{0,40}") {
        let _ = parse(&text);
    }
}
