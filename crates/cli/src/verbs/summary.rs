//! `summary`: what each layer costs, trained and folded.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use gatefold_layers::{ConvKind, Cost};
use gatefold_models::{Backbone, Description, Model, Normalisation, Summary};
use gatefold_train::{Config, Error};
use serde_json::{Value, json};
use toml::Table;

use super::train::pairs;
use crate::{place, print};

/// Options of `summary`.
#[derive(clap::Args)]
pub struct Args {
    /// A run directory or a model file [default: a new network from the options]
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "conv", "width", "classes", "input", "set"])]
    file: Option<PathBuf>,
    /// The backbone
    #[arg(long, default_value = "smallnet", value_parser = PossibleValuesParser::new(Backbone::NAMES))]
    model: String,
    /// The kind of convolution at the replaceable sites
    #[arg(long, default_value = "mdconv", value_parser = PossibleValuesParser::new(ConvKind::NAMES))]
    conv: String,
    /// The width multiplier, as a factor on the channels
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    width: f64,
    /// The number of classes
    #[arg(long, default_value_t = 10, value_name = "N")]
    classes: usize,
    /// Channels, height and width of an image in pixels
    #[arg(long, default_value = "3x32x32", value_name = "CxHxW", value_parser = shape)]
    input: [usize; 3],
    /// An option of the network by its key, for example conv.m=40; beats the other options
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Prints the table, or the object.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model: Model<f32> = match &args.file {
        Some(path) => Model::load(&place::model_file(path)?)?,
        None => new(args)?,
    };
    let summary = Summary::of(&model).map_err(Error::Tensor)?;
    let text = match args.json {
        true => format!("{}\n", json_of(&model.description, &summary)),
        false => format!("{}\n\n{}", title(&model.description), table(&summary)),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// `CxHxW`.
pub fn shape(text: &str) -> Result<[usize; 3], String> {
    let extents = text.split('x').map(|n| n.parse().ok()).collect::<Option<Vec<usize>>>();
    extents.and_then(|extents| extents.try_into().ok()).ok_or_else(|| "expected CxHxW, for example 3x32x32".to_owned())
}

fn new(args: &Args) -> anyhow::Result<Model<f32>> {
    let usage = |message: String| Error::Usage { message, remedy: None };
    let Config { backbone, width, conv, .. } = network(args)?;
    // Said before names and means are made of it.
    if !(1..=100_000).contains(&args.classes) || !(1..=1024).contains(&args.input[0]) {
        let [channels, ..] = args.input;
        return Err(usage(format!(
            "{channels} channels and {} classes: 1..=1024 and 1..=100000 are known",
            args.classes
        ))
        .into());
    }
    let channels = args.input[0];
    let description = Description {
        backbone,
        width,
        conv,
        folded: false,
        input: args.input,
        classes: (0..args.classes).map(|class| class.to_string()).collect(),
        dataset: "none".to_owned(),
        normalisation: Normalisation { maximum: 255, mean: vec![0.0; channels], std: vec![1.0; channels] },
    };
    Ok(Model::new(description, 0).map_err(|error| usage(error.to_string()))?)
}

/// The part of a configuration that names a network.
fn network(args: &Args) -> anyhow::Result<Config> {
    let sets = pairs(&args.set)?;
    let flags = Table::from_iter([
        ("model".to_owned(), args.model.clone().into()),
        ("conv".to_owned(), args.conv.clone().into()),
        ("width".to_owned(), args.width.into()),
    ]);
    let config = Config::resolve(None, flags, &sets)?;
    let names_a_network = |key: &str| ["model", "width", "conv"].contains(&key) || key.starts_with("conv.");
    match sets.iter().find(|(key, _)| !names_a_network(key.trim())) {
        Some((key, value)) => {
            let message = format!("--set {key}={value}: a network depends on model, width and conv.* alone");
            Err(print::usage_instead(message, "leave it out"))
        }
        None => Ok(config),
    }
}

fn title(of: &Description) -> String {
    let [c, h, w] = of.input;
    let form = if of.folded { "folded" } else { "trained" };
    let (model, conv, width, classes) = (of.backbone.name(), of.conv.name(), of.width, of.classes.len());
    format!("{model}, {conv}, width {width}, {form}; input {c}x{h}x{w}, {classes} classes; costs of one image")
}

/// Bytes of the weights generated for an image, in f32.
fn generated_bytes(cost: &Cost) -> usize {
    cost.generated * size_of::<f32>()
}

const HEAD: [&str; 9] = [
    "layer",
    "what",
    "output",
    "parameters",
    "MACs",
    "folded parameters",
    "folded MACs",
    "coefficients",
    "generated bytes",
];

fn table(summary: &Summary) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    for row in &summary.rows {
        let output = row.trained.output.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        rows.push(line(&row.trained.path, &row.trained.what, output, &row.trained.cost, row.folded.as_ref()));
    }
    rows.push(line("total", "", String::new(), &summary.trained(), summary.folded().as_ref()));

    let widths: [usize; 9] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
    let last = rows.len() - 1;
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        if index == 1 || index == last {
            text += &format!("{rule}\n");
        }
        // Words stand left, numbers right.
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column < 3 {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text += &format!("{}\n", cells.collect::<Vec<_>>().join("  "));
    }
    text += "\nCoefficients and generated bytes depend on the image; they are those of the folded form where there is one.\n";
    if let Some(why) = &summary.not_foldable {
        text += &format!("NOT FOLDABLE: {why}\n");
    }
    text
}

fn line(path: &str, what: &str, output: String, trained: &Cost, folded: Option<&Cost>) -> [String; 9] {
    let number = |value: Option<usize>| value.map_or_else(|| "-".to_owned(), grouped);
    let used = folded.unwrap_or(trained);
    [
        path.to_owned(),
        what.to_owned(),
        output,
        grouped(trained.parameters),
        grouped(trained.macs),
        number(folded.map(|cost| cost.parameters)),
        number(folded.map(|cost| cost.macs)),
        grouped(used.coefficients),
        grouped(generated_bytes(used)),
    ]
}

/// `1234567` → `1,234,567`.
fn grouped(value: usize) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn json_of(description: &Description, summary: &Summary) -> Value {
    let cost = |cost: &Cost| {
        json!({
            "parameters": cost.parameters,
            "macs": cost.macs,
            "coefficients": cost.coefficients,
            "generated_bytes": generated_bytes(cost),
        })
    };
    let layers = summary.rows.iter().map(|row| {
        json!({
            "path": row.trained.path,
            "what": row.trained.what,
            "output": row.trained.output,
            "trained": cost(&row.trained.cost),
            "folded": row.folded.as_ref().map(cost),
        })
    });
    json!({
        "model": description.to_json(),
        "layers": layers.collect::<Vec<_>>(),
        "trained": cost(&summary.trained()),
        "folded": summary.folded().as_ref().map(cost),
        "not_foldable": summary.not_foldable.as_ref().map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(width: f64, classes: usize) -> Args {
        let (model, conv) = ("smallnet".to_owned(), "mdconv".to_owned());
        Args { file: None, model, conv, width, classes, input: [3, 32, 32], set: Vec::new(), json: false }
    }

    #[test]
    fn a_shape_is_three_extents() {
        assert_eq!(shape("3x32x24"), Ok([3, 32, 24]));
        for text in ["", "3x32", "3x32x32x1", "3x-1x4", "axbxc", "3X32X32"] {
            assert!(shape(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts = [0, 12, 123, 1234, 123_456, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "12", "123", "1,234", "123,456", "1,234,567"]);
    }

    #[test]
    fn the_layers_add_up_to_the_total() {
        let model = new(&args(1.0, 10)).unwrap();
        let summary = Summary::of(&model).unwrap();
        let json = json_of(&model.description, &summary);
        for form in ["trained", "folded"] {
            for figure in ["parameters", "macs", "coefficients", "generated_bytes"] {
                let layers = json["layers"].as_array().unwrap();
                let sum: u64 = layers.iter().map(|layer| layer[form][figure].as_u64().unwrap()).sum();
                assert_eq!(json[form][figure], sum, "{form} {figure}");
            }
        }
        assert!(json["folded"]["generated_bytes"].as_u64().unwrap() > 0);
        let text = table(&summary);
        assert!(text.contains(&grouped(summary.trained().parameters)), "{text}");
    }

    #[test]
    fn options_without_meaning_are_usage_errors() {
        for (width, classes) in [(0.0, 10), (f64::NAN, 10), (1.0, 0), (1.0, usize::MAX)] {
            assert_eq!(status(&args(width, classes)), 2);
        }
        let set = |set: &str| Args { set: vec![set.to_owned()], ..args(1.0, 10) };
        for (text, expected) in [("conv.m", 2), ("lr=1", 2), ("conv.n=1", 4), ("conv.m=0", 4)] {
            assert_eq!(status(&set(text)), expected, "{text}");
        }
    }

    fn status(args: &Args) -> u8 {
        new(args).err().unwrap().downcast_ref::<Error>().unwrap().exit_status()
    }

    #[test]
    fn options_are_set_by_their_keys() {
        let of = |sets: &[&str]| {
            let model = new(&Args { set: sets.iter().map(|&set| set.to_owned()).collect(), ..args(1.0, 10) }).unwrap();
            (model.description.conv.name(), Summary::of(&model).unwrap().trained().parameters)
        };
        let (kind, parameters) = of(&[]);
        assert_eq!(of(&["conv.m=20"]), (kind, parameters));
        assert!(of(&["conv.m=21"]).1 > parameters && of(&["width=2"]).1 > parameters);
        assert_eq!(of(&["conv=maconv", "conv.m=4"]).0, "maconv");
    }
}
