//! `predict`: the classes of image files.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use gatefold_data::{Error, Kind, evaluation_input, stretched_input};
use gatefold_models::{Description, Inference, Model};
use gatefold_tensor::Tensor;
use serde_json::{Value, json};

use crate::place;

/// How many classes are told.
const TOP: usize = 5;
/// The exit status if a file could not be read.
const DATA: u8 = 3;

/// Options of `predict`.
#[derive(clap::Args)]
pub struct Args {
    /// A run directory or a model file
    model: PathBuf,
    /// PNG, JPEG, WebP or BMP files of any size
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Stretch all of an image to the size in pixels that the model wants, by this filter [default: the centre, as `eval`
    /// shows it, to a model trained on photos; to others all, by lanczos3]
    #[arg(long, value_enum)]
    filter: Option<Filter>,
    /// Print JSON Lines, one object a file
    #[arg(long)]
    json: bool,
}

/// A filter of the resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Filter {
    /// Sharp
    Lanczos3,
    /// Soft
    Bilinear,
}

impl From<Filter> for gatefold_data::Filter {
    fn from(filter: Filter) -> Self {
        match filter {
            Filter::Lanczos3 => gatefold_data::Filter::Lanczos3,
            Filter::Bilinear => gatefold_data::Filter::Bilinear,
        }
    }
}

/// Prints the likeliest classes of each file. A file that cannot be read is named on stderr, the others go on.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model: Model<f32> = Model::load(&place::model_file(&args.model)?)?;
    let inference = Inference::new(&model).map_err(gatefold_train::Error::Tensor)?;
    let mut out = std::io::stdout().lock();
    let mut unreadable = 0;
    for file in &args.files {
        let pixels = match pixels(file, &model.description, args.filter) {
            Ok(pixels) => pixels,
            Err(error) => {
                unreadable += 1;
                let error = reason(error);
                eprintln!("error: {}: {error}", file.display());
                if args.json {
                    writeln!(out, "{}", json!({ "file": file.display().to_string(), "error": error }))?;
                }
                continue;
            }
        };
        let top = classify(&model, &inference, &pixels)?;
        match args.json {
            true => writeln!(out, "{}", object(file, &top))?,
            false => {
                writeln!(out, "{}", file.display())?;
                for (class, probability) in top {
                    writeln!(out, "  {:>6.2} %  {class}", 100.0 * probability)?;
                }
            }
        }
    }
    if unreadable > 0 {
        eprintln!("error: {unreadable} of {} files could not be read", args.files.len());
    }
    Ok(if unreadable > 0 { ExitCode::from(DATA) } else { ExitCode::SUCCESS })
}

/// What is wrong with a file that is named beside it. The remedy of a file in a data set is none here.
fn reason(error: Error) -> String {
    match error {
        Error::Broken { problem, .. } => problem,
        Error::Io { action, source, .. } => format!("cannot {action} the file: {source}"),
        error => error.to_string(),
    }
}

fn object(file: &Path, top: &[(&str, f64)]) -> Value {
    let classes = top.iter().map(|(class, probability)| json!({ "class": class, "probability": probability }));
    json!({ "file": file.display().to_string(), "classes": classes.collect::<Vec<_>>() })
}

/// The bytes of an image as the model wants it, in the order `H, W, C`.
fn pixels(file: &Path, description: &Description, filter: Option<Filter>) -> gatefold_data::Result<Vec<u8>> {
    let photos = description.dataset.parse::<Kind>().ok().filter(|kind| kind.is_of_photos());
    match (filter, photos, description.input) {
        (None, Some(kind), [3, height, width]) if height == width => evaluation_input(kind, file, height),
        (filter, _, input) => stretched_input(file, input, filter.unwrap_or(Filter::Lanczos3).into()),
    }
}

/// The likeliest classes of one image with their probabilities, falling.
fn classify<'m>(
    model: &'m Model<f32>,
    inference: &Inference<'_, f32>,
    pixels: &[u8],
) -> anyhow::Result<Vec<(&'m str, f64)>> {
    let description = &model.description;
    let [c, h, w] = description.input;
    let of = &description.normalisation;
    let normalisation = gatefold_data::Normalisation { mean: of.mean.clone(), std: of.std.clone() };
    // A byte over 255 is the share of full brightness, as a pixel of the data set over its maximum is.
    let x: Tensor<f32> = normalisation.apply(pixels, [1, c, h, w], u8::MAX)?;
    let logits = inference.logits(&x).map_err(gatefold_train::Error::Tensor)?;
    let probabilities = softmax(&logits.to_vec());
    let mut classes: Vec<_> = description.classes.iter().map(String::as_str).zip(probabilities).collect();
    classes.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    classes.truncate(TOP);
    Ok(classes)
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use gatefold_layers::ConvKind;
    use gatefold_models::{Backbone, Normalisation};
    use image::{Rgb, RgbImage};

    use super::*;

    #[test]
    fn probabilities_sum_to_one_however_large_the_logits() {
        let p = softmax(&[1000.0, 999.0, -1000.0]);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((p[0] / p[1] - 1f64.exp()).abs() < 1e-12, "{p:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        let why = || reason(stretched_input(&file, [3, 4, 4], Filter::Bilinear.into()).unwrap_err());
        assert!(why().starts_with("cannot read the file: "), "{}", why());
        std::fs::write(&file, "no image").unwrap();
        assert_eq!(why(), "this is no PNG, JPEG, WebP or BMP image");
    }

    #[test]
    fn a_model_of_photos_is_shown_what_it_was_evaluated_on() {
        let description = |dataset: &str| Description {
            backbone: Backbone::ResNet18,
            width: 1.0,
            conv: ConvKind::named("static").unwrap(),
            folded: false,
            input: [3, 56, 56],
            classes: vec!["cat".to_owned()],
            dataset: dataset.to_owned(),
            normalisation: Normalisation { maximum: 255, mean: vec![0.0; 3], std: vec![1.0; 3] },
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photo.png");
        RgbImage::from_fn(100, 64, |x, y| Rgb([x as u8, y as u8, 0])).save(&file).unwrap();
        let shown = |dataset, filter| pixels(&file, &description(dataset), filter).unwrap()[..3].to_vec();
        // 64 is 56·256/224: nothing is resized, and the centre begins at column 22 and row 4.
        for dataset in ["imagenet", "folder"] {
            assert_eq!(shown(dataset, None), [22, 4, 0]);
        }
        for (dataset, filter) in [("cifar10", None), ("imagenet", Some(Filter::Lanczos3))] {
            assert!(shown(dataset, filter).iter().all(|&v| v < 3));
        }
    }
}
