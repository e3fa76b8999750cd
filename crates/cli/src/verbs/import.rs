//! `import FILE`: weights that others trained, as a model.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gatefold_data::Kind;
use gatefold_layers::Walk as _;
use gatefold_models::file::{self, FileError};
use gatefold_models::import::Recognised;
use gatefold_models::{Description, Normalisation};

use super::summary::shape;
use crate::print;

/// Means and deviations of ImageNet's photos, which torchvision's networks are fed with.
const IMAGENET: [[f64; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// What `import` takes.
#[derive(clap::Args)]
pub struct Args {
    /// A state dict as safetensors: torchvision's mobilenet_v2, shufflenet_v2_x* or resnet18, or a training checkpoint of
    /// RepVGG (A0 to B3g4), or of ACNet's ResNet18
    file: PathBuf,
    /// The model to write; an existing file is never overwritten
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// The width multiplier [default: by the shapes]
    #[arg(long, value_name = "X")]
    width: Option<f64>,
    /// Channels, height and width of an image in pixels; up to 64 pixels a side the backbone has its CIFAR form
    #[arg(long, default_value = "3x224x224", value_name = "CxHxW", value_parser = shape)]
    input: [usize; 3],
    /// A text file with the name of each class on a line [default: their numbers from 0]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// The data set it was trained on, which `eval`, `fold` and `verify` then take
    #[arg(long, default_value = "imagenet", value_name = "SET")]
    data: String,
    /// Mean of each channel, of pixels scaled to 0..1 [default: ImageNet's]
    #[arg(long, value_delimiter = ',', value_name = "X")]
    mean: Vec<f64>,
    /// Deviation of each channel [default: ImageNet's]
    #[arg(long, value_delimiter = ',', value_name = "X")]
    std: Vec<f64>,
}

/// Writes the model, and says what it is.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.out.exists() {
        let message = format!("`{}` exists and is not overwritten", args.out.display());
        return Err(print::usage_instead(message, "name another file with `--out`"));
    }
    let dataset: Kind = args.data.parse()?;
    let recognised = Recognised::of(file::read(&args.file)?, &args.file)?;
    let channels = recognised.channels;
    if args.input[0] != channels {
        let [_, h, w] = args.input;
        let message = format!("--input has {} channels, the stem of the network {channels}", args.input[0]);
        return Err(print::usage_instead(message, format!("`--input {channels}x{h}x{w}`")));
    }
    let Some(width) = args.width.or(recognised.width) else {
        let message = format!("the shapes of {} are of no width that is known here", recognised.layout.name);
        return Err(print::usage_instead(message, "give its width with `--width`"));
    };
    let description = Description {
        backbone: recognised.backbone,
        width,
        conv: recognised.conv(),
        folded: false,
        input: args.input,
        classes: class_names(args.classes.as_deref(), recognised.classes)?,
        dataset: dataset.name().to_owned(),
        normalisation: normalisation(args)?,
    };
    let name = recognised.layout.name;
    let model = recognised.into_model::<f32>(description, &args.file)?;
    model.save(&args.out)?;
    let Description { backbone, conv, classes, .. } = &model.description;
    println!(
        "{name}: {} {}, width {width}, {} classes, {} parameters",
        backbone.name(),
        conv.name(),
        classes.len(),
        model.network.parameters()
    );
    println!("wrote {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

fn class_names(path: Option<&Path>, count: usize) -> anyhow::Result<Vec<String>> {
    let Some(path) = path else { return Ok((0..count).map(|class| class.to_string()).collect()) };
    let bytes = std::fs::read(path).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    let remedy = "name each class on a line of its own, in the order of the network's outputs";
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(print::usage_instead(format!("`{}` is no text in UTF-8", path.display()), remedy));
    };
    let names: Vec<_> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if names.len() == count {
        return Ok(names);
    }
    let message = format!("`{}` has {} names, the network {count} classes", path.display(), names.len());
    Err(print::usage_instead(message, remedy))
}

fn normalisation(args: &Args) -> anyhow::Result<Normalisation> {
    let channels = args.input[0];
    let of = |name: &str, given: &[f64], default: [f64; 3]| match given {
        [] if channels == default.len() => Ok(default.to_vec()),
        given if given.len() == channels && given.iter().all(|v| v.is_finite() && (name == "mean" || *v >= 0.0)) => {
            Ok(given.to_vec())
        }
        _ => Err(print::usage_instead(
            format!("--{name} takes {channels} numbers, deviations of at least 0"),
            format!("separate one a channel by commas: `--{name} {}`", vec!["0.5"; channels].join(",")),
        )),
    };
    let [mean, std] = IMAGENET;
    Ok(Normalisation { maximum: 255, mean: of("mean", &args.mean, mean)?, std: of("std", &args.std, std)? })
}
