//! "Did you mean": the known word nearest to an unknown one.

/// "; did you mean x?" for the candidate nearest to `got`, or nothing where none is near.
pub(crate) fn did_you_mean<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(got, candidates)
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default()
}

/// The candidate with the fewest edits from `got`: at most a third of its length, and ties to the first.
pub(crate) fn nearest<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let got: Vec<char> = got.chars().take(LONGEST).flat_map(char::to_lowercase).collect();
    let limit = (got.len() / 3).max(1);
    candidates
        .into_iter()
        .take(MOST)
        // Each character too many or too few is an edit.
        .filter(|candidate| candidate.chars().count().abs_diff(got.len()) <= limit)
        .map(|candidate| (distance(&got, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words, where a swap of neighbours is one edit, ignoring case (optimal string alignment).
fn distance(got: &[char], candidate: &str) -> usize {
    let want: Vec<char> = candidate
        .chars()
        .take(LONGEST)
        .flat_map(char::to_lowercase)
        .collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=want.len()).collect();
    for (i, a) in got.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in want.iter().enumerate() {
            let substituted = last[j] + usize::from(a != b);
            let mut least = substituted.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == want[j - 1] && got[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[want.len()]
}

/// Words are compared up to this many characters: names here are at most 253, and the input may be anything.
const LONGEST: usize = 64;
/// The most candidates that are compared.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let known = ["command", "name", "namespace", "tcpSocket"];
        for (got, near) in [
            ("comand", Some("command")),
            ("nmae", Some("name")),
            ("nameSpace", Some("namespace")),
            ("tcpsocket", Some("tcpSocket")),
            ("image", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(got, known), near, "{got:?}");
        }
    }

    #[test]
    fn a_swap_is_one_edit() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("abcd"), "acbd"), 1);
        assert_eq!(distance(&chars("abcd"), "abd"), 1);
        assert_eq!(distance(&chars(""), "abc"), 3);
        assert_eq!(distance(&chars("kitten"), "sitting"), 3);
    }
}
