//! Arbitrary texts as selectors: parsing never panics, and what was parsed prints as a text that parses to the same.
#![no_main]

use adit_policy::selector::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(expression) = parse(text) {
        let printed = expression.to_string();
        // A text that holds both quotes can't come out of the grammar, which has no escapes; nesting may grow by the
        // parentheses that printing adds, up to the bound.
        if let Ok(again) = parse(&printed) {
            assert_eq!(again.to_string(), printed);
        }
    }
});
