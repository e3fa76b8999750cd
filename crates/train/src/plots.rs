//! Loss and accuracy over the epochs as SVG, readable on light and dark pages.

use std::fmt::Write;

use crate::{Epoch, Result, RunDir};

/// Width and height of a plot, and the margins around its axes, in pixels.
const SIZE: [f64; 2] = [720.0, 360.0];
const MARGIN: [f64; 4] = [40.0, 20.0, 48.0, 64.0]; // top, right, bottom, left

/// A line of a plot: its name, its colour, and its points.
pub struct Series<'a> {
    /// The name in the legend.
    pub name: &'a str,
    /// A CSS colour.
    pub colour: &'a str,
    /// (x, y), x rising.
    pub points: Vec<(f64, f64)>,
}

/// Writes `plots/loss.svg` and `plots/accuracy.svg`.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write(dir: &RunDir, epochs: &[Epoch]) -> Result<()> {
    let series = |name, colour, value: fn(&Epoch) -> f64| Series {
        name,
        colour,
        points: epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect(),
    };
    let loss = [series("train", "#4c78a8", |e| e.train_loss), series("test", "#e4572e", |e| e.test_loss)];
    let accuracy = [series("train", "#4c78a8", |e| e.train_accuracy), series("test", "#e4572e", |e| e.test_accuracy)];
    dir.write("plots/loss.svg", &line_plot("Loss", "epoch", "cross-entropy", &loss))?;
    dir.write("plots/accuracy.svg", &line_plot("Accuracy", "epoch", "percent", &accuracy))
}

/// A line plot; values that are no numbers leave a gap.
pub fn line_plot(title: &str, x_label: &str, y_label: &str, series: &[Series<'_>]) -> String {
    let [top, right, bottom, left] = MARGIN;
    let all = || series.iter().flat_map(|s| &s.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let (x_low, x_high) = range(all().map(|p| p.0));
    let (y_low, y_high) = range(all().map(|p| p.1));
    let x_at = |x: f64| left + (x - x_low) / (x_high - x_low) * (SIZE[0] - left - right);
    let y_at = |y: f64| SIZE[1] - bottom - (y - y_low) / (y_high - y_low) * (SIZE[1] - top - bottom);
    let (baseline, end) = (SIZE[1] - bottom, SIZE[0] - right);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>text{{font:13px sans-serif;fill:#777}}.grid{{stroke:#8884}}.axis{{stroke:#777}}\
         polyline{{fill:none;stroke-width:2}}</style>\n\
         <text x=\"{left}\" y=\"24\" style=\"font-weight:bold\">{title}</text>\n",
        SIZE[0], SIZE[1]
    );
    for y in ticks(y_low, y_high) {
        let at = y_at(y);
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{left}\" x2=\"{end}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", left - 8.0, at + 4.0, label(y));
    }
    for x in ticks(x_low, x_high) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x_at(x),
            baseline + 18.0,
            label(x)
        );
    }
    let _ = writeln!(svg, "<line class=\"axis\" x1=\"{left}\" x2=\"{end}\" y1=\"{baseline}\" y2=\"{baseline}\"/>");
    let _ = writeln!(svg, "<text x=\"{end}\" y=\"{}\" text-anchor=\"end\">{x_label}</text>", baseline + 38.0);
    let _ = writeln!(
        svg,
        "<text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">{y_label}</text>",
        (top + baseline) / 2.0
    );
    for (i, Series { name, colour, points }) in series.iter().enumerate() {
        let finite = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let line: Vec<_> = finite.map(|&(x, y)| format!("{:.1},{:.1}", x_at(x), y_at(y))).collect();
        let _ = writeln!(svg, "<polyline stroke=\"{colour}\" points=\"{}\"/>", line.join(" "));
        let x = end - 140.0 + 70.0 * i as f64;
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"24\" style=\"fill:{colour}\">{name}</text>");
    }
    svg + "</svg>\n"
}

/// Lowest and highest value, apart even where there is one value or none.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match low < high {
        true => (low, high),
        false if low.is_finite() => (low - 0.5, low + 0.5),
        false => (0.0, 1.0),
    }
}

/// Round values between `low` and `high`, about five: steps of 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|&s| s >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

fn label(value: f64) -> String {
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert!(ticks(0.37, 2.21).iter().all(|t| (0.37..=2.21).contains(t)));
    }

    #[test]
    fn a_plot_of_one_point_or_of_no_numbers_is_a_plot() {
        for points in [vec![(0.0, 1.0)], vec![(0.0, f64::NAN)], vec![]] {
            let svg = line_plot("t", "x", "y", &[Series { name: "a", colour: "red", points }]);
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
        }
    }
}
