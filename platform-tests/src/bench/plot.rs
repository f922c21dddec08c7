//! Plots as SVG: bars of medians with their spread, and lines over time.

use std::fmt;

use super::table::shown;
use crate::stats::Spread;

/// Groups of horizontal bars. A bar of the same name has the same colour in all of them.
pub(super) struct Bars {
    pub(super) title: String,
    pub(super) groups: Vec<Group>,
}

/// Bars on one scale.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) bars: Vec<Bar>,
}

/// One bar, from zero.
pub(super) struct Bar {
    pub(super) name: String,
    /// Which colour; the bar's place among all paths.
    pub(super) colour: usize,
    pub(super) value: Spread,
}

/// Lines over time, from zero.
pub(super) struct Lines {
    pub(super) title: String,
    pub(super) unit: String,
    pub(super) series: Vec<Series>,
}

/// One line.
pub(super) struct Series {
    pub(super) name: String,
    /// Seconds and value.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 16.0;
const LABELS: f64 = 130.0;
const VALUES: f64 = 110.0;
const TITLE: f64 = 40.0;
const BAR: f64 = 16.0;
const BAR_PITCH: f64 = 20.0;
const GROUP_HEAD: f64 = 24.0;
const GROUP_GAP: f64 = 10.0;
const PLOT: f64 = 220.0;
/// Okabe and Ito's colours, which people with colour blindness can tell apart.
const COLOURS: [&str; 8] = [
    "#999999", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442",
];

impl fmt::Display for Bars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let height = |group: &Group| GROUP_HEAD + BAR_PITCH * group.bars.len() as f64 + GROUP_GAP;
        let total = TITLE + self.groups.iter().map(height).sum::<f64>();
        begin(f, total, &self.title)?;
        let mut top = TITLE;
        for group in &self.groups {
            group.write(f, top)?;
            top += height(group);
        }
        writeln!(f, "</svg>")
    }
}

impl Group {
    fn write(&self, f: &mut fmt::Formatter<'_>, top: f64) -> fmt::Result {
        let heading = format!("{} ({})", self.name, self.unit);
        text(f, (MARGIN, top + 15.0), "font-weight=\"bold\"", &heading)?;
        let greatest = self.bars.iter().map(|bar| bar.value.max).fold(0.0, f64::max);
        let scale = (WIDTH - 2.0 * MARGIN - LABELS - VALUES) / greatest.max(f64::MIN_POSITIVE);
        let left = MARGIN + LABELS;
        for (index, bar) in self.bars.iter().enumerate() {
            let y = top + GROUP_HEAD + BAR_PITCH * index as f64;
            let middle = y + BAR / 2.0;
            let at = |value: f64| left + value * scale;
            let Spread { min, median, max } = bar.value;
            text(f, (left - 6.0, y + 12.5), "text-anchor=\"end\"", &bar.name)?;
            writeln!(
                f,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>",
                median * scale,
                COLOURS[bar.colour % COLOURS.len()]
            )?;
            writeln!(
                f,
                "<path d=\"M{:.1} {middle}H{:.1}M{:.1} {}v8M{:.1} {}v8\" stroke=\"#222\" fill=\"none\"/>",
                at(min),
                at(max),
                at(min),
                middle - 4.0,
                at(max),
                middle - 4.0
            )?;
            text(f, (at(max) + 8.0, y + 12.5), "", &shown(median))?;
        }
        Ok(())
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let legend = BAR_PITCH * self.series.len() as f64;
        begin(f, TITLE + PLOT + 40.0 + legend, &self.title)?;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let longest = points().map(|(seconds, _)| *seconds).fold(1.0, f64::max);
        let top = rounded_up(points().map(|(_, value)| *value).fold(0.0, f64::max));
        let (left, right, bottom) = (MARGIN + 60.0, WIDTH - MARGIN, TITLE + PLOT);
        let at = |seconds: f64, value: f64| {
            (
                left + (right - left) * seconds / longest,
                bottom - PLOT * value / top,
            )
        };
        for part in 0..=4 {
            let value = top * f64::from(part) / 4.0;
            let (_, y) = at(0.0, value);
            writeln!(f, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#ddd\"/>")?;
            text(f, (left - 6.0, y + 4.0), "text-anchor=\"end\"", &shown(value))?;
        }
        text(f, (MARGIN, TITLE - 6.0), "", &self.unit)?;
        text(f, (left, bottom + 18.0), "", "0")?;
        let end = format!("{longest:.0} s");
        text(f, (right, bottom + 18.0), "text-anchor=\"end\"", &end)?;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[(index + 1) % COLOURS.len()];
            write!(
                f,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\""
            )?;
            for (index, (seconds, value)) in series.points.iter().enumerate() {
                let (x, y) = at(*seconds, *value);
                write!(f, "{}{x:.1},{y:.1}", if index == 0 { "" } else { " " })?;
            }
            writeln!(f, "\"/>")?;
            let y = bottom + 40.0 + BAR_PITCH * index as f64;
            writeln!(
                f,
                "<rect x=\"{left}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>",
                y - 11.0
            )?;
            text(f, (left + 18.0, y), "", &series.name)?;
        }
        writeln!(f, "</svg>")
    }
}

fn begin(f: &mut fmt::Formatter<'_>, height: f64, title: &str) -> fmt::Result {
    writeln!(
        f,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">"
    )?;
    // White below it: pages may be dark.
    writeln!(f, "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>")?;
    text(f, (MARGIN, 22.0), "font-size=\"15\" font-weight=\"bold\"", title)
}

fn text(f: &mut fmt::Formatter<'_>, (x, y): (f64, f64), attributes: &str, text: &str) -> fmt::Result {
    let space = if attributes.is_empty() { "" } else { " " };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        f,
        "<text x=\"{x:.1}\" y=\"{y:.1}\"{space}{attributes}>{text}</text>"
    )
}

/// The next of 1, 2, 4, 8, 10, 20, …: what a scale may end with.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let ten = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0].map(|step| step * ten);
    steps.into_iter().find(|step| value <= *step).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_with_a_round_number() {
        let all = [0.0, 1.0, 1.1, 3.0, 9.0, 42.0].map(rounded_up);
        assert_eq!(all, [1.0, 1.0, 2.0, 4.0, 10.0, 80.0]);
    }

    #[test]
    fn names_are_text_and_nothing_else() {
        let bars = Bars {
            title: "a <b> & c".to_owned(),
            groups: Vec::new(),
        };
        assert!(bars.to_string().contains(">a &lt;b> &amp; c</text>"), "{bars}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_of_the_greatest() {
        let bar = |name: &str, value| Bar {
            name: name.to_owned(),
            colour: 0,
            value: Spread {
                min: value,
                median: value,
                max: value,
            },
        };
        let bars = Bars {
            title: String::new(),
            groups: vec![Group {
                name: "speed".to_owned(),
                unit: "Gbit/s".to_owned(),
                bars: vec![bar("whole", 20.0), bar("half", 10.0)],
            }],
        };
        let drawn = bars.to_string();
        assert!(
            drawn.contains("width=\"488.0\"") && drawn.contains("width=\"244.0\""),
            "{drawn}"
        );
    }
}
