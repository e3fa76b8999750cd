//! The configuration of a run: everything that names what is computed, and nothing else. The run's `config.toml` holds
//! it whole, so that the run can be made again from that file.

mod recipe;
mod resolve;

pub use recipe::Recipe;
pub use resolve::ConfigFile;

use std::ops::RangeInclusive;
use std::path::PathBuf;

use gatefold_data::{Kind, SetOptions};
use gatefold_layers::ConvKind;
use gatefold_models::Backbone;
use serde::{Deserialize, Serialize};

use crate::{DecayScope, LearningRate, Schedule};

/// The configuration of a run. In TOML the keys are the fields' names with hyphens; `[conv]` and `[schedule]` are
/// tables with a `kind` and its options, `[data]` one with the options of the data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The data set.
    pub dataset: String,
    /// The backbone.
    #[serde(rename = "model")]
    pub backbone: Backbone,
    /// The width multiplier, above 0.
    pub width: f64,
    /// Epochs, at least 1.
    pub epochs: usize,
    /// Images in a batch, at least 1.
    pub batch_size: usize,
    /// The learning rate η, above 0.
    pub lr: f64,
    /// The momentum of SGD, at least 0 and below 1.
    pub momentum: f64,
    /// The weight decay, at least 0.
    pub weight_decay: f64,
    /// What the weight decay shrinks: `all` parameters, or `kernels` without biases and batch norms.
    pub weight_decay_scope: DecayScope,
    /// Gradients are shortened to this norm, over all parameters together, where they are longer; 0 for never.
    pub clip_norm: f64,
    /// Epochs over which the learning rate rises to η, fewer than all.
    pub warmup_epochs: usize,
    /// The share of the target that is spread over all classes, at least 0 and below 1.
    pub label_smoothing: f64,
    /// α of mixup: a batch is mixed with a permutation of itself, with a share of Beta(α, α); 0 for none.
    pub mixup: f64,
    /// What an average of the weights keeps of itself at each step, at least 0 and below 1; 0 for no average. It is evaluated
    /// beside the weights, and written to `ema.safetensors`.
    pub ema: f64,
    /// Batch norms see so many parts of each batch apart, as on so many devices; 1 for the batch as a whole.
    pub bn_parts: usize,
    /// Names every random choice.
    pub seed: u64,
    /// The element type of the network.
    pub precision: Precision,
    /// The first training and the first test images, so many of each; all where there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The run stops after so many optimiser steps in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// A safetensors file with the initial values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Whether training images are changed at random.
    pub augment: bool,
    /// Black pixels added on each side before a crop is drawn, where images are augmented.
    pub pad: usize,
    /// Whether half of the images are mirrored, where images are augmented.
    pub flip: bool,
    /// Whether every epoch has an order of its own; file order otherwise.
    pub shuffle: bool,
    /// The kind of convolution at the replaceable sites, with its options.
    pub conv: ConvKind,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// The options of the data set.
    #[serde(default, skip_serializing_if = "SetOptions::is_empty")]
    pub data: SetOptions,
}

/// The element type of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Config {
    /// The defaults for a data set: the paper's CIFAR recipe, a shorter one for the digits, and for ImageNet that of the ImageNet
    /// example of PyTorch.
    pub fn defaults(dataset: Kind) -> Self {
        let (epochs, batch_size, weight_decay, schedule) = match dataset {
            Kind::Digits => (60, 64, 5e-4, "cosine"),
            Kind::Imagenet => (90, 256, 1e-4, "step"),
            _ => (200, 128, 5e-4, "cosine"),
        };
        let gatefold_data::Augment { pad, flip } = dataset.augment();
        Config {
            dataset: dataset.name().to_owned(),
            backbone: Backbone::SmallNet,
            width: 1.0,
            epochs,
            batch_size,
            lr: 0.1,
            momentum: 0.9,
            weight_decay,
            weight_decay_scope: DecayScope::All,
            clip_norm: 0.0,
            warmup_epochs: 0,
            label_smoothing: 0.0,
            mixup: 0.0,
            ema: 0.0,
            bn_parts: 1,
            seed: 0,
            precision: Precision::F32,
            limit: None,
            steps: None,
            init: None,
            augment: true,
            pad,
            flip,
            shuffle: true,
            conv: ConvKind::named("mdconv").expect("the default kind exists"),
            schedule: Schedule::named(schedule).expect("the default schedule exists"),
            data: SetOptions::default(),
        }
    }

    /// The learning rate of `epoch`, counted from 0.
    pub fn lr_at(&self, epoch: usize) -> f64 {
        self.learning_rate().lr(epoch)
    }

    /// The learning rates of the run.
    pub fn learning_rate(&self) -> LearningRate {
        let Config { lr, epochs, warmup_epochs, .. } = *self;
        LearningRate { base: lr, epochs, warmup_epochs, schedule: self.schedule.clone() }
    }

    /// The whole configuration as TOML, from which the run can be made again.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain data with a seed that fits an i64")
    }

    /// The first value outside its range: its key, and what it is.
    fn out_of_range(&self) -> Option<(&'static str, String)> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let share = |x: f64| (0.0..1.0).contains(&x);
        let checks = [
            ("width", positive(self.width) && self.width <= 64.0, self.width.to_string()),
            ("epochs", self.epochs >= 1, self.epochs.to_string()),
            ("batch-size", self.batch_size >= 1, self.batch_size.to_string()),
            ("lr", positive(self.lr), self.lr.to_string()),
            ("momentum", share(self.momentum), self.momentum.to_string()),
            ("weight-decay", self.weight_decay >= 0.0 && self.weight_decay.is_finite(), self.weight_decay.to_string()),
            ("warmup-epochs", self.warmup_epochs < self.epochs, self.warmup_epochs.to_string()),
            ("label-smoothing", share(self.label_smoothing), self.label_smoothing.to_string()),
            ("clip-norm", self.clip_norm >= 0.0 && self.clip_norm.is_finite(), self.clip_norm.to_string()),
            ("mixup", self.mixup == 0.0 || MIXUP.contains(&self.mixup), self.mixup.to_string()),
            ("ema", share(self.ema), self.ema.to_string()),
            ("bn-parts", self.bn_parts >= 1, self.bn_parts.to_string()),
            ("limit", self.limit != Some(0), "0".to_owned()),
            ("steps", self.steps != Some(0), "0".to_owned()),
            ("pad", self.pad <= MAX_PAD, self.pad.to_string()),
        ];
        let found = checks.into_iter().find(|(_, fits, _)| !fits).map(|(key, _, value)| (key, value));
        let Schedule::Step(step) = &self.schedule else { return found };
        found.or_else(|| {
            if !(positive(step.gamma) && step.gamma <= 1.0) {
                return Some(("schedule.gamma", step.gamma.to_string()));
            }
            let one = (step.every > 0) == step.milestones.is_empty();
            (!one).then(|| ("schedule.every", format!("{} with milestones {:?}", step.every, step.milestones)))
        })
    }
}

/// No image is padded by more pixels.
const MAX_PAD: usize = 1024;

/// α of mixup: below, nothing is mixed; above, everything in halves.
const MIXUP: RangeInclusive<f64> = 0.001..=1000.0;

/// What a key must be, in words; `None` for the options of a kind, of which the kind itself speaks.
fn expected(key: &str) -> Option<String> {
    let names = |names: &[&str]| format!("one of {}", names.join(", "));
    Some(match key {
        "dataset" => names(&Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>()),
        "model" => names(Backbone::NAMES),
        "conv" | "conv.kind" => names(ConvKind::NAMES),
        "schedule" | "schedule.kind" => names(Schedule::NAMES),
        "precision" => names(&["f32", "f64"]),
        "width" => "a number above 0 and at most 64".to_owned(),
        "epochs" | "batch-size" | "bn-parts" => "a whole number of at least 1".to_owned(),
        "limit" | "steps" => "a whole number of at least 1, or none by `--set`".to_owned(),
        "lr" => "a number above 0".to_owned(),
        "momentum" | "label-smoothing" | "ema" => "a number of at least 0 and below 1".to_owned(),
        "weight-decay" | "clip-norm" => "a number of at least 0".to_owned(),
        "weight-decay-scope" => names(&["all", "kernels"]),
        "mixup" => format!("0, or a number from {} to {}", MIXUP.start(), MIXUP.end()),
        "warmup-epochs" => "a whole number of at least 0 and below `epochs`".to_owned(),
        "seed" => format!("a whole number from 0 to {}", i64::MAX),
        "pad" => format!("a whole number from 0 to {MAX_PAD}"),
        "init" => "the path of a safetensors file".to_owned(),
        "augment" | "flip" | "shuffle" => "true or false".to_owned(),
        "schedule.gamma" => "a number above 0 and at most 1".to_owned(),
        "schedule.every" => "a number of epochs above 0, or 0 and milestones in its place".to_owned(),
        "schedule.milestones" => "a list of epochs, such as [60, 120]".to_owned(),
        _ => return None,
    })
}
