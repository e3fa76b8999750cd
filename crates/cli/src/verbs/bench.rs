//! `bench`: how fast networks train and classify on this machine.
//!
//! Each row is measured in a process of its own, which this verb starts with the options of that row alone: the peak of
//! a process' memory is that of its largest row, and a thread pool is made once.

mod table;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use clap::builder::PossibleValuesParser;
use gatefold_layers::ConvKind;
use gatefold_models::Backbone;
use gatefold_train::bench::{Measurement, Mode, OpTime, measure, peak_rss_mib};
use gatefold_train::{Config, Error, Precision};
use serde_json::{Value, json};
use toml::Table;

use crate::print;
use table::{number, table, title};

/// Options of `bench`.
#[derive(clap::Args)]
pub struct Args {
    /// The backbones
    #[arg(long, default_value = "smallnet", value_delimiter = ',', value_parser = PossibleValuesParser::new(Backbone::NAMES))]
    model: Vec<String>,
    /// The kinds of convolution at the replaceable sites
    #[arg(long, default_value = "mdconv", value_delimiter = ',', value_parser = PossibleValuesParser::new(ConvKind::NAMES))]
    conv: Vec<String>,
    /// The width multipliers, as factors on the channels
    #[arg(long, default_value = "1", value_delimiter = ',', value_name = "FACTOR")]
    width: Vec<f64>,
    /// The forms in which maconv, mdconv or expandnet train [default: auto]
    #[arg(long, value_delimiter = ',')]
    form: Vec<String>,
    /// train: forward, loss, backward, SGD, statistics; infer: the logits of the folded network
    #[arg(long, default_value = "train", value_delimiter = ',', value_parser = ["train", "infer"])]
    mode: Vec<String>,
    /// Images in a batch
    #[arg(long, default_value = "128", value_delimiter = ',', value_name = "N")]
    batch_size: Vec<u32>,
    /// Infer with the network as it is trained, not folded
    #[arg(long)]
    unfolded: bool,
    /// Seconds that each row is measured, after half a second of warm-up
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Measure all rows so many times, one after the other in each round
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Show the parts of a step too, and of training the ops, in time and in bytes
    #[arg(long)]
    profile: bool,
    /// Print a JSON object per measurement, one a line, and nothing else
    #[arg(long)]
    json: bool,
    /// Any option of `train` by its key, for example conv.m=40; beats all else
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
}

/// One measurement to make.
#[derive(Clone)]
struct Row<'a> {
    model: &'a str,
    conv: &'a str,
    width: f64,
    form: Option<&'a str>,
    mode: &'a str,
    batch_size: u32,
    threads: Option<usize>,
}

/// Measures every combination of the options; `threads` are the values of the global option.
pub fn run(args: &Args, threads: &[usize]) -> anyhow::Result<ExitCode> {
    let rows = rows(args, threads);
    // What is wrong with any row is said before the first one is measured.
    let configs = rows.iter().map(|row| config(args, row)).collect::<anyhow::Result<Vec<_>>>()?;
    if let ([row], [config], 1) = (&rows[..], &configs[..], args.rounds) {
        let result = single(args, row, config)?;
        print(args, &[result])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut results = Vec::new();
    for round in 0..args.rounds {
        for row in &rows {
            let mut result = match in_own_process(args, row)? {
                Ok(result) => result,
                Err(status) => return Ok(status),
            };
            result["round"] = round.into();
            if args.json {
                writeln!(std::io::stdout().lock(), "{result}")?;
            } else if args.rounds > 1 {
                let (at, of) = (results.len() + 1, rows.len() * args.rounds as usize);
                eprintln!("{at}/{of}  {}  {:.3} ms", title(&result), number(&result, "ms_median"));
            }
            results.push(result);
        }
    }
    if !args.json {
        print(args, &results)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn seconds(text: &str) -> Result<f64, String> {
    let parsed: Option<f64> = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    parsed.ok_or_else(|| "expected seconds from 0 to 86400".to_owned())
}

/// The product of all options. A kind without forms has one row, whatever `--form` says.
fn rows<'a>(args: &'a Args, threads: &[usize]) -> Vec<Row<'a>> {
    let threads: Vec<_> = if threads.is_empty() { vec![None] } else { threads.iter().copied().map(Some).collect() };
    let mut rows = Vec::new();
    for model in &args.model {
        for conv in &args.conv {
            let forms = match ConvKind::named(conv).and_then(|kind| form(&kind)) {
                Some(_) if !args.form.is_empty() => args.form.iter().map(|form| Some(form.as_str())).collect(),
                _ => vec![None],
            };
            for &width in &args.width {
                for &form in &forms {
                    for mode in &args.mode {
                        for &batch_size in &args.batch_size {
                            for &threads in &threads {
                                rows.push(Row { model, conv, width, form, mode, batch_size, threads });
                            }
                        }
                    }
                }
            }
        }
    }
    rows
}

/// The form in which a kind trains; `None` if it has but one.
fn form(kind: &ConvKind) -> Option<String> {
    let options = serde_json::to_value(kind).expect("options are plain data");
    options["form"].as_str().map(str::to_owned)
}

fn config(args: &Args, row: &Row<'_>) -> anyhow::Result<Config> {
    let mut flags = Table::new();
    flags.insert("model".to_owned(), row.model.into());
    flags.insert("conv".to_owned(), row.conv.into());
    flags.insert("width".to_owned(), row.width.into());
    flags.insert("batch-size".to_owned(), i64::from(row.batch_size).into());
    // Labels that cannot be learned are stepped over for long: gently.
    flags.insert("lr".to_owned(), 0.01.into());
    let form = row.form.map(|form| ("conv.form".to_owned(), form.to_owned()));
    let given = args.set.iter().map(|set| {
        let pair = set.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| print::usage(format!("--set {set}: expected KEY=VALUE")))
    });
    let sets = form.into_iter().map(Ok).chain(given).collect::<Result<Vec<_>, _>>()?;
    Ok(Config::resolve(None, flags, &sets)?)
}

/// Measures in this process.
fn single(args: &Args, row: &Row<'_>, config: &Config) -> Result<Value, Error> {
    let mode = match (row.mode, args.unfolded) {
        ("train", _) => Mode::Train,
        (_, true) => Mode::Unfolded,
        (_, false) => Mode::Folded,
    };
    let measured = measure(config, mode, args.seconds, args.profile)?;
    Ok(result(row, config, mode, &measured, args.profile))
}

fn result(row: &Row<'_>, config: &Config, mode: Mode, measured: &Measurement, profile: bool) -> Value {
    let mut result = json!({
        "model": row.model,
        "conv": row.conv,
        "form": form(&config.conv).unwrap_or_else(|| "plain".to_owned()),
        "folded": mode == Mode::Folded,
        "planned": measured.planned,
        "width": config.width,
        "precision": if config.precision == Precision::F32 { "f32" } else { "f64" },
        "mode": row.mode,
        "batch": measured.batch_size,
        "threads": rayon::current_num_threads(),
        "parameters": measured.parameters,
        "macs": measured.macs,
        "steps": measured.steps_ms.len(),
        "images_per_s": measured.images_per_second(),
        "ms_median": measured.median_ms(),
        "ms_min": measured.min_ms(),
        "ms_max": measured.max_ms(),
        "gflops": measured.gflops(),
        "peak_rss_mib": peak_rss_mib(),
    });
    if profile {
        let part = |(part, ms): &(&str, f64)| json!({ "part": part, "ms_median": ms });
        result["profile"] = measured.parts.iter().map(part).collect();
        result["ops"] = measured.ops.iter().map(op).collect();
    }
    result
}

fn op(of: &OpTime) -> Value {
    let direction = if of.backward { "backward" } else { "forward" };
    json!({
        "op": of.op,
        "direction": direction,
        "shape": of.shape,
        "count": of.count,
        "bytes": of.bytes,
        "ms_median": of.ms,
    })
}

/// Starts this program with the options of `row` alone; the exit status if it fails, which has then said why.
fn in_own_process(args: &Args, row: &Row<'_>) -> anyhow::Result<Result<Value, ExitCode>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["bench", "--json", "--model", row.model, "--conv", row.conv, "--mode", row.mode]);
    command.args(["--width", &row.width.to_string(), "--batch-size", &row.batch_size.to_string()]);
    command.args(["--seconds", &args.seconds.to_string()]);
    let options = [("--form", row.form.map(str::to_owned)), ("--threads", row.threads.map(|n| n.to_string()))];
    for (option, value) in options {
        command.args(value.iter().flat_map(|value| [option, value]));
    }
    command.args(args.set.iter().flat_map(|set| ["--set", set]));
    command.args(args.unfolded.then_some("--unfolded"));
    command.args(args.profile.then_some("--profile"));
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        let status = output.status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(Err(status.map_or(ExitCode::FAILURE, ExitCode::from)));
    }
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}

fn print(args: &Args, results: &[Value]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if args.json {
        return results.iter().try_for_each(|result| writeln!(out, "{result}"));
    }
    write!(out, "{}", table(results))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::try_parse_from(std::iter::once("bench").chain(line.split_whitespace())).unwrap().args
    }

    #[test]
    fn every_combination_is_a_row() {
        let args = parse("--conv static,mdconv --form expanded,compact --mode train,infer --batch-size 1,128");
        let rows = rows(&args, &[2, 1]);
        // Static has no forms: (1 + 2) kinds and forms, 2 modes, 2 batch sizes, 2 numbers of threads.
        assert_eq!(rows.len(), 3 * 2 * 2 * 2);
        assert_eq!(rows.iter().filter(|row| row.form.is_none()).count(), 8);
        assert_eq!((rows[0].threads, rows[1].threads), (Some(2), Some(1)));
        let one = parse("");
        assert_eq!(super::rows(&one, &[]).len(), 1);
    }

    #[test]
    fn options_reach_the_configuration() {
        let args = parse("--form compact --set conv.m=7 --batch-size 3 --width 0.5");
        let config = config(&args, &rows(&args, &[])[0]).unwrap();
        assert_eq!(form(&config.conv).as_deref(), Some("compact"));
        let ConvKind::MdConv(options) = &config.conv else { panic!("{:?}", config.conv) };
        assert_eq!((options.m, config.batch_size, config.width), (7, 3, 0.5));
    }

    #[test]
    fn a_wrong_row_is_an_error_of_usage_or_configuration() {
        for (line, word) in [("--set conv.m=none", "conv.m"), ("--form flat", "conv.form"), ("--set m", "KEY=VALUE")] {
            let args = parse(line);
            let error = config(&args, &rows(&args, &[])[0]).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(Line::try_parse_from(["bench", "--seconds", "-1"]).is_err());
        assert!(Line::try_parse_from(["bench", "--rounds", "0"]).is_err());
    }

    #[test]
    fn a_measurement_has_the_promised_keys() {
        let args = parse("--conv static --batch-size 2 --seconds 0 --mode infer --profile");
        let row = &rows(&args, &[])[0];
        let result = single(&args, row, &config(&args, row).unwrap()).unwrap();
        for key in
            ["model", "conv", "form", "mode", "batch", "threads", "images_per_s", "ms_median", "ms_min", "ms_max"]
        {
            assert!(!result[key].is_null(), "{key}: {result}");
        }
        assert_eq!((&result["folded"], &result["macs"]), (&json!(true), &json!(1_031_808)));
        let text = table(&[result.clone(), result]);
        assert!(text.contains("smallnet x1 static, infer folded, batch 2"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("images/s")).count(), 1);
        assert_eq!(text.matches("  forward").count(), 2, "{text}");
    }
}
