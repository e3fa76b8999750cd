//! Lines over the epochs as SVG, readable on light and dark pages and without colour.

use std::fmt::Write;

use crate::{Epoch, Result, RunDir};

/// Width and height of a plot, in pixels.
const SIZE: [f64; 2] = [720.0, 400.0];
/// Space around the axes: top, right, bottom, left.
const MARGIN: [f64; 4] = [52.0, 24.0, 56.0, 68.0];

/// What a page without styles of its own needs. Every selector is below the class, so that a report can hold many plots.
const STYLE: &str = "\
.gf-plot{--ground:#fff;--ink:#1f2328;--faint:#59636e;--grid:#d9dee3;--line0:#0069a8;--line1:#c2410c;--line2:#15803d;--line3:#7e22ce}
@media (prefers-color-scheme:dark){.gf-plot{--ground:#0d1117;--ink:#e6edf3;--faint:#9aa4ae;--grid:#2d343c;\
--line0:#6cb6ff;--line1:#ff9e64;--line2:#6fdd8b;--line3:#d2a8ff}}
.gf-plot .ground{fill:var(--ground)}
.gf-plot text{font:13px system-ui,sans-serif;fill:var(--faint)}
.gf-plot .title{font-size:16px;font-weight:600;fill:var(--ink)}
.gf-plot .name{fill:var(--ink)}
.gf-plot .grid{stroke:var(--grid)}
.gf-plot .axis{stroke:var(--faint)}
.gf-plot .line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.gf-plot .dashed{stroke-dasharray:6 5}
.gf-plot .s0{stroke:var(--line0)}.gf-plot .s1{stroke:var(--line1)}.gf-plot .s2{stroke:var(--line2)}.gf-plot .s3{stroke:var(--line3)}
";

/// Values from here on are not drawn: a loss like that is as good as infinite, and would flatten all others.
const BEYOND: f64 = 1e12;

/// How many lines differ in colour or dashes; those beyond begin again.
const COLOURS: usize = 4;

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series<'a> {
    /// The name in the legend.
    pub name: &'a str,
    /// (x, y), x rising.
    pub points: Vec<(f64, f64)>,
}

/// Writes `plots/loss.svg` and `plots/accuracy.svg`.
///
/// # Errors
/// [`crate::Error::Io`].
pub fn write(dir: &RunDir, epochs: &[Epoch]) -> Result<()> {
    let series = |name, value: fn(&Epoch) -> f64| Series {
        name,
        points: epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect(),
    };
    let mut loss = vec![series("test", |e| e.test_loss), series("train", |e| e.train_loss)];
    let mut accuracy = vec![series("test", |e| e.test_accuracy), series("train", |e| e.train_accuracy)];
    if epochs.iter().any(|epoch| epoch.ema_accuracy.is_some()) {
        loss.push(series("test, averaged", |e| e.ema_loss.unwrap_or(f64::NAN)));
        accuracy.push(series("test, averaged", |e| e.ema_accuracy.unwrap_or(f64::NAN)));
    }
    dir.write("plots/loss.svg", &line_plot("Loss", "Epoch", "Cross-entropy, mean", &loss))?;
    dir.write("plots/accuracy.svg", &line_plot("Accuracy", "Epoch", "Classified right, %", &accuracy))
}

/// A line plot as an SVG document: axes with ticks, a legend, and a line a series, every second one dashed. A point that
/// is not finite, or beyond 10¹², leaves a gap; a point between two gaps is a dot.
pub fn line_plot(title: &str, x_label: &str, y_label: &str, series: &[Series<'_>]) -> String {
    let drawn = || series.iter().flat_map(|s| &s.points).filter(|p| is_drawn(p));
    let x = Axis::new(drawn().map(|p| p.0), [MARGIN[3], SIZE[0] - MARGIN[1]], false);
    let y = Axis::new(drawn().map(|p| p.1), [SIZE[1] - MARGIN[2], MARGIN[0]], true);
    let mut svg = Svg(String::new());
    let [width, height] = SIZE;
    svg.line(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"gf-plot\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">"
    ));
    svg.line(format_args!("<title>{}</title>\n<style>\n{STYLE}</style>", escape(title)));
    svg.line(format_args!("<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>"));
    svg.axes(&x, &y);
    svg.text("title", [x.pixels[0], 28.0], "start", title);
    svg.text("label", [(x.pixels[0] + x.pixels[1]) / 2.0, height - 14.0], "middle", x_label);
    svg.line(format_args!(
        "<text class=\"label\" transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (y.pixels[0] + y.pixels[1]) / 2.0,
        escape(y_label)
    ));
    // Later lines are drawn below earlier ones: the first is the one that matters.
    for (i, series) in series.iter().enumerate().rev() {
        svg.series(i, series, &x, &y);
    }
    svg.legend(series, x.pixels[1]);
    svg.0 + "</svg>\n"
}

fn is_drawn(&(x, y): &(f64, f64)) -> bool {
    x.abs() < BEYOND && y.abs() < BEYOND
}

/// A range of values laid out over a range of pixels, with ticks at round values.
struct Axis {
    values: [f64; 2],
    pixels: [f64; 2],
    step: f64,
}

impl Axis {
    /// Over all `values`; `widen` moves the ends out to the next ticks.
    fn new(values: impl Iterator<Item = f64>, pixels: [f64; 2], widen: bool) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match (low < high, low == high) {
            (true, _) => (low, high),
            (_, true) => (low - 0.5_f64.max(low.abs() * 0.1), low + 0.5_f64.max(low.abs() * 0.1)),
            // There is no value at all.
            _ => (0.0, 1.0),
        };
        let rough = (high - low) / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|&s| s >= rough).unwrap_or(rough);
        let values = if widen { [(low / step).floor() * step, (high / step).ceil() * step] } else { [low, high] };
        Axis { values, pixels, step }
    }

    fn at(&self, value: f64) -> f64 {
        let ([low, high], [from, to]) = (self.values, self.pixels);
        from + (value - low) / (high - low) * (to - from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let [low, high] = self.values.map(|end| end / self.step);
        // A tick may miss its end by rounding alone.
        let (first, last) = ((low - 1e-9).ceil(), (high + 1e-9).floor());
        let step = self.step;
        (0..=(last - first).clamp(0.0, 20.0) as usize).map(move |i| (first + i as f64) * step)
    }

    /// A tick's value with as many decimals as the step has.
    fn label(&self, value: f64) -> String {
        let magnitude = self.step.log10().floor();
        if !(-6.0..=6.0).contains(&magnitude) {
            return format!("{value:e}");
        }
        let text = format!("{value:.*}", (-magnitude).max(0.0) as usize);
        if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) { "0".to_owned() } else { text }
    }
}

/// A document under way.
struct Svg(String);

impl Svg {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{line}").expect("writing to a string does not fail");
    }

    fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: &str, text: &str) {
        let text = escape(text);
        self.line(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn rule(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        self.line(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn axes(&mut self, x: &Axis, y: &Axis) {
        let ([left, right], bottom) = (x.pixels, y.pixels[0]);
        for tick in y.ticks() {
            self.rule("grid", [left, y.at(tick)], [right, y.at(tick)]);
            self.text("tick", [left - 10.0, y.at(tick) + 4.5], "end", &y.label(tick));
        }
        for tick in x.ticks() {
            self.rule("axis", [x.at(tick), bottom], [x.at(tick), bottom + 5.0]);
            self.text("tick", [x.at(tick), bottom + 20.0], "middle", &x.label(tick));
        }
        self.rule("axis", [left, bottom], [right, bottom]);
    }

    fn series(&mut self, index: usize, series: &Series<'_>, x: &Axis, y: &Axis) {
        let class = line_class(index);
        for run in series.points.split(|p| !is_drawn(p)).filter(|run| !run.is_empty()) {
            // A line from a point to itself is drawn as a dot by its round ends.
            let run = if let [only] = run { &[*only, *only][..] } else { run };
            let points: Vec<String> = run.iter().map(|&(px, py)| format!("{:.1},{:.1}", x.at(px), y.at(py))).collect();
            let dot = if run[0] == run[run.len() - 1] { " style=\"stroke-width:6\"" } else { "" };
            self.line(format_args!("<polyline class=\"{class}\"{dot} points=\"{}\"/>", points.join(" ")));
        }
    }

    /// Names beside a piece of their lines, at the right of the title.
    fn legend(&mut self, series: &[Series<'_>], right: f64) {
        let mut end = right;
        for (index, Series { name, .. }) in series.iter().enumerate().rev() {
            // Wide enough for the name in most fonts; the name ends where the next piece begins.
            let width = 8.0 * name.chars().count() as f64;
            self.text("name", [end - width, 28.0], "start", name);
            self.rule(&line_class(index), [end - width - 36.0, 23.5], [end - width - 8.0, 23.5]);
            end -= width + 56.0;
        }
    }
}

fn line_class(index: usize) -> String {
    let dashed = if index % 2 == 1 { " dashed" } else { "" };
    format!("line s{}{dashed}", index % COLOURS)
}

/// `text` as it stands between tags. Control characters, which no XML document may hold, become spaces.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64], widen: bool) -> Axis {
        Axis::new(values.iter().copied(), [0.0, 100.0], widen)
    }

    fn plot(points: Vec<(f64, f64)>) -> String {
        line_plot("t", "x", "y", &[Series { name: "a", points }])
    }

    fn lines(svg: &str) -> Vec<&str> {
        svg.lines().filter(|line| line.starts_with("<polyline")).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(axis(&[0.0, 10.0], false).ticks().collect::<Vec<_>>(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let inside = axis(&[0.37, 2.21], false);
        assert!(inside.ticks().all(|t| (0.37..=2.21).contains(&t)));
        let around = axis(&[0.37, 2.21], true);
        assert_eq!(around.values, [0.0, 2.5]);
        assert_eq!(
            around.ticks().map(|t| around.label(t)).collect::<Vec<_>>(),
            ["0", "0.5", "1.0", "1.5", "2.0", "2.5"]
        );
        let small = axis(&[0.001, 0.002], false);
        assert_eq!(small.label(0.0012), "0.0012");
        assert_eq!((around.at(0.0), around.at(1.25), around.at(2.5)), (0.0, 50.0, 100.0));
    }

    #[test]
    fn any_points_give_finite_coordinates() {
        let huge = [(0.0, f64::MAX), (1.0, f64::MIN)];
        for points in [vec![], vec![(0.0, 1.0)], vec![(0.0, f64::NAN)], vec![(0.0, f64::MAX)], huge.to_vec()] {
            let svg = plot(points);
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("=\"inf"), "{svg}");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_leaves_a_gap() {
        let svg = plot(vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::INFINITY), (3.0, 1.0)]);
        let lines = lines(&svg);
        assert_eq!(lines.len(), 2, "{svg}");
        assert!(lines[1].contains("stroke-width:6"), "a lone point is a dot");
    }

    #[test]
    fn every_series_has_its_line_and_its_name() {
        let points = vec![(0.0, 1.0), (1.0, 2.0)];
        let all = ["train", "test"].map(|name| Series { name, points: points.clone() });
        let svg = line_plot("Loss", "Epoch", "Mean", &all);
        assert_eq!(lines(&svg).len(), 2);
        for text in ["Loss", "Epoch", "Mean", "train", "test"] {
            assert!(svg.contains(&format!(">{text}</text>")), "{text}");
        }
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn texts_are_escaped() {
        let svg = line_plot("a < b & \"c\"\u{0}", "x", "y", &[Series { name: "</svg>", points: vec![] }]);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot; </text>"), "{svg}");
        assert_eq!(svg.matches("</svg>").count(), 1);
    }
}
