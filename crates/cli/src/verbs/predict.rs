//! `predict`: the classes of image files.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::ValueEnum;
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use gatefold_data::{Kind, evaluation_input};
use gatefold_models::{Description, Inference, Model};
use gatefold_tensor::Tensor;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use serde_json::{Value, json};

use crate::place;

/// How many classes are told.
const TOP: usize = 5;
/// Pixels along a side, beyond which a file is refused.
const MAX_SIDE: u32 = 32_768;
/// Bytes of a decoded image, beyond which a file is refused.
const MAX_BYTES: u64 = 512 << 20;
/// The exit status if a file could not be read.
const DATA: u8 = 3;

/// Options of `predict`.
#[derive(clap::Args)]
pub struct Args {
    /// A run directory or a model file
    model: PathBuf,
    /// PNG or JPEG files of any size
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
                let error = format!("{error:#}");
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

fn object(file: &Path, top: &[(&str, f64)]) -> Value {
    let classes = top.iter().map(|(class, probability)| json!({ "class": class, "probability": probability }));
    json!({ "file": file.display().to_string(), "classes": classes.collect::<Vec<_>>() })
}

/// The bytes of an image as the model wants it, in the order `H, W, C`.
fn pixels(file: &Path, description: &Description, filter: Option<Filter>) -> anyhow::Result<Vec<u8>> {
    let photos = description.dataset.parse::<Kind>().ok().filter(|kind| kind.is_of_photos());
    match (filter, photos, description.input) {
        (None, Some(kind), [3, height, width]) if height == width => Ok(evaluation_input(kind, file, height)?),
        (filter, _, input) => stretched(file, input, filter.unwrap_or(Filter::Lanczos3)),
    }
}

/// All of an image, upright. Transparency is passed over.
fn stretched(file: &Path, [channels, height, width]: [usize; 3], filter: Filter) -> anyhow::Result<Vec<u8>> {
    let image = decode(file)?;
    let (from, bytes, kind) = match channels {
        1 => {
            let grey = image.into_luma8();
            (grey.dimensions(), grey.into_raw(), PixelType::U8)
        }
        3 => {
            let colour = image.into_rgb8();
            (colour.dimensions(), colour.into_raw(), PixelType::U8x3)
        }
        _ => bail!("the model wants {channels} channels: an image file makes 1 or 3"),
    };
    let to = (u32::try_from(width)?, u32::try_from(height)?);
    if from == to {
        return Ok(bytes);
    }
    let source = ImageRef::new(from.0, from.1, &bytes, kind)?;
    let mut resized = Image::new(to.0, to.1, kind);
    let filter = match filter {
        Filter::Lanczos3 => FilterType::Lanczos3,
        Filter::Bilinear => FilterType::Bilinear,
    };
    Resizer::new().resize(&source, &mut resized, &ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)))?;
    Ok(resized.into_vec())
}

/// Reads a file by what it holds, not by its name, and turns it upright.
fn decode(file: &Path) -> anyhow::Result<DynamicImage> {
    // Asked first: opening a pipe would wait for a writer.
    ensure!(std::fs::metadata(file).context("cannot read the file")?.is_file(), "this is no regular file");
    let mut reader = ImageReader::new(BufReader::new(File::open(file).context("cannot read the file")?));
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let reader = reader.with_guessed_format().context("cannot read the file")?;
    if reader.format().is_none() {
        return Err(anyhow!("this is neither a PNG nor a JPEG image"));
    }
    let mut decoder = reader.into_decoder()?;
    let bytes = decoder.total_bytes();
    ensure!(bytes <= MAX_BYTES, "the image takes {} MiB, {} are allowed", bytes >> 20, MAX_BYTES >> 20);
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image)
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
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    #[test]
    fn probabilities_sum_to_one_however_large_the_logits() {
        let p = softmax(&[1000.0, 999.0, -1000.0]);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((p[0] / p[1] - 1f64.exp()).abs() < 1e-12, "{p:?}");
    }

    #[test]
    fn an_image_comes_in_the_models_size_and_channels() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.dat"); // the name says nothing
        let image = RgbImage::from_fn(40, 20, |x, _| if x < 20 { Rgb([200, 10, 0]) } else { Rgb([0, 10, 100]) });
        image.save_with_format(&file, ImageFormat::Png).unwrap();
        assert_eq!(stretched(&file, [3, 20, 40], Filter::Lanczos3).unwrap(), image.into_raw());
        for filter in [Filter::Lanczos3, Filter::Bilinear] {
            let small = stretched(&file, [3, 4, 8], filter).unwrap();
            assert_eq!(small.len(), 4 * 8 * 3);
            assert_eq!((&small[..3], &small[21..24]), (&[200, 10, 0][..], &[0, 10, 100][..]));
            assert_eq!(stretched(&file, [1, 4, 8], filter).unwrap().len(), 4 * 8);
        }
        assert!(stretched(&file, [2, 4, 8], Filter::Lanczos3).unwrap_err().to_string().contains("2 channels"));
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

    #[test]
    fn what_is_no_image_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        assert!(decode(&file).is_err());
        assert!(decode(folder.path()).is_err());
        std::fs::write(&file, "no image").unwrap();
        assert!(decode(&file).unwrap_err().to_string().contains("neither"));
        // A PNG that is cut off.
        RgbImage::new(30, 30).save_with_format(&file, ImageFormat::Png).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(decode(&file).is_err());
    }
}
