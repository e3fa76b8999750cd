//! `train [DATASET]`: trains a network, folds it, and verifies the fold.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use gatefold_data::{Kind, Loaded, Request, load};
use gatefold_layers::ConvKind;
use gatefold_models::Backbone;
use gatefold_tensor::Real;
use gatefold_train::{
    Conclusion, Config, ConfigFile, Error, Outcome, Precision, Recipe, RunDir, RunRecord, Status, Trainer, conclude,
};
use toml::{Table, Value};

use crate::progress::Progress;
use crate::{place, print};

/// The help of `--conv`: with every kind there is.
static KINDS: LazyLock<String> =
    LazyLock::new(|| format!("The kind of convolution: {} [default: mdconv]", ConvKind::NAMES.join(", ")));

/// The help of `--model`: with every backbone there is.
static BACKBONES: LazyLock<String> =
    LazyLock::new(|| format!("The backbone: {} [default: smallnet]", Backbone::NAMES.join(", ")));

/// What `train` takes.
#[derive(clap::Args)]
pub struct Args {
    /// The data set: digits (embedded), cifar10, cifar100, svhn, mnist, fashion-mnist, emnist, imagenet, folder or idx
    /// [default: digits]
    dataset: Option<String>,
    #[arg(long, help = BACKBONES.as_str())]
    model: Option<String>,
    #[arg(long, value_name = "KIND", help = KINDS.as_str())]
    conv: Option<String>,
    /// Width multiplier; shufflenetv2 has 0.5, 1, 1.5 and 2, repvgg-* up to 2 [default: 1]
    #[arg(long, value_name = "X")]
    width: Option<f64>,
    /// Epochs [default: 200; digits 60; imagenet 90]
    #[arg(long, value_name = "N")]
    epochs: Option<i64>,
    /// Images in a batch [default: 128; digits 64; imagenet 256]
    #[arg(long, value_name = "N")]
    batch_size: Option<i64>,
    /// Learning rate at the start [default: 0.1]
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// Momentum of SGD [default: 0.9]
    #[arg(long, value_name = "X")]
    momentum: Option<f64>,
    /// Weight decay [default: 5e-4; imagenet 1e-4]
    #[arg(long, value_name = "X")]
    weight_decay: Option<f64>,
    /// What weight decay shrinks: all parameters, or kernels without biases and batch norms [default: all]
    #[arg(long, value_name = "SCOPE")]
    weight_decay_scope: Option<String>,
    /// Shorten gradients to this norm, over all parameters together; 0 for never [default: 0]
    #[arg(long, value_name = "X")]
    clip_norm: Option<f64>,
    /// Share of the target that is spread over all classes, 0 to below 1 [default: 0]
    #[arg(long, value_name = "X")]
    label_smoothing: Option<f64>,
    /// Mix each batch with a permutation of itself, with a share of Beta(X, X); 0 for none [default: 0]
    #[arg(long, value_name = "X")]
    mixup: Option<f64>,
    /// Average the weights, keeping this share at each step, for example 0.999; 0 for no average [default: 0]
    #[arg(long, value_name = "X")]
    ema: Option<f64>,
    /// Batch norms see each batch in N parts, as on N devices [default: 1]
    #[arg(long, value_name = "N")]
    bn_parts: Option<i64>,
    /// Learning rates by epoch: cosine, step or constant [default: cosine; imagenet step]
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,
    /// Names every random choice [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
    /// Element type: f32 or f64 [default: f32]
    #[arg(long, value_name = "TYPE")]
    precision: Option<String>,
    /// The first N training and the first N test images [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<i64>,
    /// The first ⌈X·n⌉ training images of each class [default: 1]
    #[arg(long, value_name = "X")]
    fraction: Option<f64>,
    /// Side in pixels that image files are brought to [default: 224]
    #[arg(long, value_name = "N")]
    input_size: Option<i64>,
    /// Stop after N optimiser steps in all [default: all epochs]
    #[arg(long, value_name = "N")]
    steps: Option<i64>,
    /// Initial values from a safetensors file, names and shapes as the network's
    #[arg(long, value_name = "FILE")]
    init: Option<String>,
    /// Images as they are
    #[arg(long)]
    no_augment: bool,
    /// Batches in file order
    #[arg(long)]
    no_shuffle: bool,
    /// The run directory [default: runs/DATE-MODEL-CONV]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The folder that contains the data sets [default: GATEFOLD_DATA, else the user's data directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A named configuration, for example paper-cifar10; all else beats it. `gatefold recipes` lists them
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// A TOML file with any of the options; flags beat it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any option by its key, for example conv.m=40; none unsets init, limit or steps; beats all else
    #[arg(long, value_name = "KEY=VALUE", num_args = 1..)]
    set: Vec<String>,
}

impl Args {
    /// The flags that were given, by configuration key.
    fn flags(&self) -> Table {
        let text = |value: &Option<String>| value.clone().map(Value::String);
        let float = |value: Option<f64>| value.map(Value::Float);
        let integer = |value: Option<i64>| value.map(Value::Integer);
        let off = |given: bool| given.then_some(Value::Boolean(false));
        let flags = [
            ("dataset", text(&self.dataset)),
            ("model", text(&self.model)),
            ("conv", text(&self.conv)),
            ("width", float(self.width)),
            ("epochs", integer(self.epochs)),
            ("batch-size", integer(self.batch_size)),
            ("lr", float(self.lr)),
            ("momentum", float(self.momentum)),
            ("weight-decay", float(self.weight_decay)),
            ("weight-decay-scope", text(&self.weight_decay_scope)),
            ("clip-norm", float(self.clip_norm)),
            ("label-smoothing", float(self.label_smoothing)),
            ("mixup", float(self.mixup)),
            ("ema", float(self.ema)),
            ("bn-parts", integer(self.bn_parts)),
            ("schedule", text(&self.schedule)),
            ("seed", integer(self.seed)),
            ("precision", text(&self.precision)),
            ("limit", integer(self.limit)),
            ("data.fraction", float(self.fraction)),
            ("data.input-size", integer(self.input_size)),
            ("steps", integer(self.steps)),
            ("init", text(&self.init)),
            ("augment", off(self.no_augment)),
            ("shuffle", off(self.no_shuffle)),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    fn config(&self) -> anyhow::Result<Config> {
        let file = self.config.as_deref().map(ConfigFile::read).transpose()?;
        let recipe = self.recipe.as_deref().map(Recipe::named).transpose()?.map(|recipe| recipe.file());
        Ok(Config::resolve(recipe.iter().chain(&file), self.flags(), &pairs(&self.set)?)?)
    }
}

/// The texts after `--set`, taken apart.
pub fn pairs(sets: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |set: &String| {
        let pair = set.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        pair.ok_or_else(|| print::usage(format!("--set {set}: expected KEY=VALUE")))
    };
    sets.iter().map(pair).collect()
}

/// Exit status 0 if the fold is equal or there is none, 1 if it is not.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let data_dir = place::data_dir(args.data_dir.as_deref());
    let loaded = load_set(&config, &data_dir)?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => RunDir::default_path(&config),
    };
    let record = RunRecord::new(&config, &loaded, &data_dir);
    match config.precision {
        Precision::F32 => go(Trainer::<f32>::new(config, loaded)?, |c| Ok(RunDir::create(&path, c)?), record),
        Precision::F64 => go(Trainer::<f64>::new(config, loaded)?, |c| Ok(RunDir::create(&path, c)?), record),
    }
}

/// The data set of a configuration; what its user should know of the files goes to stderr.
pub fn load_set(config: &Config, data_dir: &Path) -> anyhow::Result<Loaded> {
    let kind: Kind = config.dataset.parse()?;
    let request = Request { limit: config.limit, options: config.data.clone(), normalisation: None };
    let loaded = load(kind, data_dir, request)?;
    print::remarks(&loaded);
    Ok(loaded)
}

/// Trains to the end, folds and verifies.
pub fn go<T: Real>(
    mut trainer: Trainer<T>,
    dir: impl FnOnce(&Config) -> anyhow::Result<RunDir>,
    mut record: RunRecord,
) -> anyhow::Result<ExitCode> {
    let dir = dir(trainer.config())?;
    let config = trainer.config();
    eprintln!(
        "{} {} on {}: {} parameters, {} training and {} test images; run directory {}",
        config.backbone.name(),
        config.conv.name(),
        config.dataset,
        trainer.parameters(),
        trainer.train().len(),
        trainer.test().len(),
        dir.path().display()
    );
    // Before anything says that the run is under way: from then on it can be interrupted.
    let mut progress = Progress::new()?;
    record.save(&dir)?;
    let outcome = trainer.run(&dir, &mut progress);
    record.finish(match &outcome {
        Ok(Outcome::Finished) => Status::Finished,
        Ok(Outcome::Interrupted) => Status::Interrupted,
        Err(Error::Diverged { .. }) => Status::Diverged,
        Err(_) => Status::Failed,
    });
    // Where the disk is full, what failed first says more.
    let saved = record.save(&dir);
    let outcome = outcome?;
    saved?;
    if outcome == Outcome::Interrupted {
        return Err(Error::Interrupted { run: dir.path().to_owned() }.into());
    }
    if let Some(accuracy) = trainer.last_accuracy() {
        println!("test accuracy {accuracy:.2} %");
    }
    if let (Some(averaged), Some(accuracy)) = (trainer.averaged()?, trainer.averaged_accuracy()) {
        let path = dir.averaged_model();
        averaged.save(&path)?;
        println!("averaged weights {accuracy:.2} %, in {}", path.display());
    }
    match conclude(&trainer.model, trainer.test(), &dir)? {
        Conclusion::NotFoldable(why) => {
            print::not_foldable(&why);
            Ok(ExitCode::SUCCESS)
        }
        Conclusion::Verified(report) => {
            print::report(&report);
            Ok(if report.equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
