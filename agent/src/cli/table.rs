//! Columns for people.

/// Lines up `rows` under `header`; the last column is as wide as it is.
pub(super) fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let width = |column: usize| {
        rows.iter()
            .chain([&header])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    [&header].into_iter().chain(rows).map(line).collect()
}

/// A length of time in the largest units that say enough: `45s`, `3m`, `2h`, `5d`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_has_spaces_at_its_end() {
        let rows = [
            ["shop/web".to_owned(), String::new()],
            ["db".to_owned(), "ready".to_owned()],
        ];
        assert_eq!(
            render(["NAME", "STATE"], &rows),
            "NAME      STATE\nshop/web\ndb        ready\n"
        );
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [0, 119, 120, 7200, 200_000].map(age),
            ["0s", "119s", "2m", "2h", "2d"]
        );
    }
}
