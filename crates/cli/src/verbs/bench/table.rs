//! Measurements as text.

use std::collections::BTreeMap;

use serde_json::Value;

const HEAD: [&str; 8] = ["network", "images/s", "ms median", "ms min", "ms max", "GFLOP/s", "peak MiB", "runs"];

/// A line for each row: over several rounds the median of the medians, and the extremes of all.
pub fn table(results: &[Value]) -> String {
    let mut titles: Vec<String> = Vec::new();
    for result in results {
        let title = title(result);
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    let lines = titles.iter().map(|name| line(name, &results.iter().filter(|r| title(r) == *name).collect::<Vec<_>>()));
    let mut cells = vec![HEAD.map(str::to_owned)];
    cells.extend(lines);
    let widths: [usize; 8] = std::array::from_fn(|i| cells.iter().map(|line| line[i].len()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &cells {
        let [name, figures @ ..] = line;
        text += &format!("{name:<0$}", widths[0]);
        for (figure, width) in figures.iter().zip(&widths[1..]) {
            text += &format!("  {figure:>width$}");
        }
        text.push('\n');
    }
    text + &profiles(results)
}

pub fn title(of: &Value) -> String {
    let text = |key| of[key].as_str().unwrap_or_default();
    let form = match text("form") {
        "plain" => String::new(),
        form => format!(" {form}"),
    };
    let folded = match (of["folded"] == true, of["planned"] == true) {
        (true, true) => " folded",
        (true, false) => " folded, no plan",
        (false, _) => "",
    };
    let (width, batch, threads) = (number(of, "width"), &of["batch"], &of["threads"]);
    let (model, conv, mode) = (text("model"), text("conv"), text("mode"));
    format!("{model} x{width} {conv}{form}, {mode}{folded}, batch {batch}, {threads} thread(s)")
}

pub fn number(of: &Value, key: &str) -> f64 {
    of[key].as_f64().unwrap_or(f64::NAN)
}

fn line(name: &str, runs: &[&Value]) -> [String; 8] {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| number(a, "ms_median").total_cmp(&number(b, "ms_median")));
    let median = sorted[sorted.len() / 2];
    let all = |key| runs.iter().map(move |run| number(run, key));
    let peak = all("peak_rss_mib").fold(f64::NAN, f64::max);
    [
        name.to_owned(),
        format!("{:.0}", number(median, "images_per_s")),
        format!("{:.3}", number(median, "ms_median")),
        format!("{:.3}", all("ms_min").fold(f64::INFINITY, f64::min)),
        format!("{:.3}", all("ms_max").fold(0.0, f64::max)),
        format!("{:.1}", number(median, "gflops")),
        if peak.is_nan() { "-".to_owned() } else { format!("{peak:.0}") },
        runs.len().to_string(),
    ]
}

/// The parts of a step, run by run, where they were asked for.
fn profiles(results: &[Value]) -> String {
    let mut text = String::new();
    for result in results {
        let Some(parts) = result["profile"].as_array() else { continue };
        text += &format!("\n{}\n", title(result));
        for part in parts {
            let (ms, step) = (number(part, "ms_median"), number(result, "ms_median"));
            let name = part["part"].as_str().unwrap_or_default();
            text += &format!("  {name:<12} {ms:>9.3} ms  {:>5.1} %\n", 100.0 * ms / step);
        }
        text += &ops(result);
    }
    text
}

/// The ops of a training step by name, the slowest first: how often each runs, the MiB of its outputs, its time in
/// either direction.
fn ops(result: &Value) -> String {
    let mut of_name: BTreeMap<&str, OpSum> = BTreeMap::new();
    for op in result["ops"].as_array().into_iter().flatten() {
        let sum = of_name.entry(op["op"].as_str().unwrap_or_default()).or_default();
        let ms = number(op, "ms_median");
        if op["direction"] == "backward" {
            sum.backward_ms += ms;
        } else {
            sum.forward_ms += ms;
            sum.count += op["count"].as_u64().unwrap_or(0);
            sum.mib += number(op, "bytes") / f64::from(1 << 20);
        }
    }
    let mut sums: Vec<_> = of_name.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.ms().total_cmp(&a.ms()));
    let mut text = String::new();
    for (index, (name, sum)) in sums.iter().enumerate() {
        if index == 0 {
            text += &format!("  {:<16} {:>5} {:>8} {:>10} {:>11}\n", "op", "runs", "MiB", "forward ms", "backward ms");
        }
        let OpSum { count, mib, forward_ms, backward_ms } = sum;
        let share = 100.0 * sum.ms() / number(result, "ms_median");
        text += &format!("  {name:<16} {count:>5} {mib:>8.2} {forward_ms:>10.3} {backward_ms:>11.3}  {share:>5.1} %\n");
    }
    text
}

#[derive(Default)]
struct OpSum {
    count: u64,
    mib: f64,
    forward_ms: f64,
    backward_ms: f64,
}

impl OpSum {
    fn ms(&self) -> f64 {
        self.forward_ms + self.backward_ms
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_profile_of_training_sums_up_the_ops_by_name() {
        let op = |op: &str, direction: &str, ms: f64| json!({ "op": op, "direction": direction, "count": 2, "bytes": 1 << 20, "ms_median": ms });
        let measured = [
            op("relu", "forward", 1.0),
            op("conv2d", "forward", 2.0),
            op("conv2d", "forward", 3.0),
            op("conv2d", "backward", 5.0),
        ];
        let text = ops(&json!({ "ms_median": 20.0, "ops": measured }));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["conv2d", "4", "2.00", "5.000", "5.000", "50.0", "%"]);
        assert_eq!(lines[2], ["relu", "2", "1.00", "1.000", "0.000", "5.0", "%"]);
        assert_eq!(ops(&json!({ "ms_median": 20.0 })), "");
    }

    #[test]
    fn rounds_are_summed_up_by_their_median() {
        let run = |ms: f64| json!({ "model": "a", "ms_median": ms, "ms_min": ms - 1.0, "ms_max": ms + 1.0, "images_per_s": 1e3 / ms });
        let runs = [run(30.0), run(10.0), run(20.0)];
        let line = line("a", &runs.iter().collect::<Vec<_>>());
        assert_eq!(line[1..5], ["50", "20.000", "9.000", "31.000"]);
        assert_eq!(line[6..], ["-", "3"]);
    }
}
