//! The configuration of a run: defaults, then a TOML file, then flags, then `--set key=value`, each layer over the one
//! before. A key that nobody knows is an error that names the nearest one.

use gatefold_layers::ConvKind;
use gatefold_models::Backbone;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{Error, LearningRate, Result, Schedule};

/// The element type of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    F32,
    /// f64.
    F64,
}

/// Everything that decides what a run computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The data set.
    pub dataset: String,
    /// The backbone.
    #[serde(rename = "model")]
    pub backbone: Backbone,
    /// Width multiplier.
    pub width: f64,
    /// Epochs.
    pub epochs: usize,
    /// Images in a batch.
    pub batch_size: usize,
    /// Learning rate at the start.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay, on all parameters.
    pub weight_decay: f64,
    /// Epochs over which the learning rate rises to `lr`.
    pub warmup_epochs: usize,
    /// s of the smoothed labels (1 − s)·onehot + s/K.
    pub label_smoothing: f64,
    /// Names every random choice.
    pub seed: u64,
    /// Element type.
    pub precision: Precision,
    /// Zeros around an image before it is cropped at random.
    pub pad: usize,
    /// Whether half of the images are mirrored.
    pub flip: bool,
    /// Whether images are padded, cropped and mirrored at all.
    pub augment: bool,
    /// Whether each epoch has an order of its own.
    pub shuffle: bool,
    /// The first N training and test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Stop after N optimiser steps in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// A file with initial values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// The kind of convolution.
    pub conv: ConvKind,
    /// What the learning rate does from epoch to epoch.
    pub schedule: Schedule,
}

/// Keys that may be absent, each with a value that shows its type.
static OPTIONAL: [(&str, Value); 3] =
    [("limit", Value::Integer(0)), ("steps", Value::Integer(0)), ("init", Value::String(String::new()))];

impl Config {
    /// The paper's recipe of 32x32 images, or that of the digits.
    pub fn defaults(dataset: &str) -> Self {
        let digits = dataset == "digits";
        Config {
            dataset: dataset.to_owned(),
            backbone: Backbone::SmallNet,
            width: 1.0,
            epochs: if digits { 60 } else { 200 },
            batch_size: if digits { 64 } else { 128 },
            lr: 0.1,
            momentum: 0.9,
            weight_decay: 5e-4,
            warmup_epochs: 0,
            label_smoothing: 0.0,
            seed: 0,
            precision: Precision::F32,
            pad: if digits { 1 } else { 2 },
            flip: !digits,
            augment: true,
            shuffle: true,
            limit: None,
            steps: None,
            init: None,
            conv: ConvKind::named("mdconv").expect("a kind of that name"),
            schedule: Schedule::named("cosine").expect("a schedule of that name"),
        }
    }

    /// The configuration of all layers: the text of a TOML file, flags by key, and `--set` pairs.
    ///
    /// # Errors
    /// [`Error::Config`] names the key, what was expected and, for an unknown key, the nearest known one.
    pub fn resolve(file: Option<&str>, flags: Table, sets: &[(String, String)]) -> Result<Self> {
        let mut layers = Vec::new();
        if let Some(text) = file {
            let table = text.parse().map_err(|e: toml::de::Error| config("the configuration file", e.to_string()))?;
            layers.push(("the configuration file".to_owned(), table));
        }
        layers.push(("the command line".to_owned(), flags));
        for (key, value) in sets {
            layers.push((format!("--set {key}={value}"), nested(key, value)));
        }
        let named = layers.iter().rev().find_map(|(_, layer)| layer.get("dataset")?.as_str());
        let mut table = Config::defaults(named.unwrap_or("digits")).table();
        for (place, layer) in layers {
            overlay(&mut table, layer, "", &place)?;
        }
        let resolved: Config = table.try_into().map_err(|e: toml::de::Error| config("configuration", e.message()))?;
        resolved.check()?;
        Ok(resolved)
    }

    /// The configuration as a TOML file that gives the same run again.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is plain data")
    }

    fn table(&self) -> Table {
        Table::try_from(self).expect("a configuration is plain data")
    }

    /// The learning rate of an epoch, counted from 0.
    pub fn lr_at(&self, epoch: usize) -> f64 {
        let Config { lr, epochs, warmup_epochs, ref schedule, .. } = *self;
        LearningRate { base: lr, epochs, warmup_epochs, schedule: schedule.clone() }.lr(epoch)
    }

    fn check(&self) -> Result<()> {
        let within = |key: &str, holds: bool, expected: &str| match holds {
            true => Ok(()),
            false => Err(config(key, format!("expected {expected}"))),
        };
        within("lr", self.lr > 0.0 && self.lr.is_finite(), "a positive number")?;
        within("momentum", (0.0..1.0).contains(&self.momentum), "at least 0 and below 1")?;
        within("weight-decay", self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "0 or more")?;
        within("label-smoothing", (0.0..1.0).contains(&self.label_smoothing), "at least 0 and below 1")?;
        within("epochs", self.epochs > 0, "at least 1")?;
        within("batch-size", self.batch_size > 0, "at least 1")?;
        within("warmup-epochs", self.warmup_epochs < self.epochs, "fewer than there are epochs")?;
        within("limit", self.limit != Some(0), "at least 1")?;
        within("width", self.width > 0.0 && self.width.is_finite(), "a positive number")?;
        self.conv.check().map_err(|why| config("conv", why))
    }
}

fn config(place: impl Into<String>, message: impl Into<String>) -> Error {
    Error::Config { place: place.into(), message: message.into(), remedy: None }
}

/// `a.b=v` as the table `{a: {b: v}}`; a value that is no TOML is a text.
fn nested(key: &str, value: &str) -> Table {
    let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    let leaf = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    let mut parts = key.rsplit('.');
    let last = parts.next().unwrap_or(key);
    let table = |key: &str, value| Table::from_iter([(key.to_owned(), value)]);
    parts.fold(table(last, leaf), |inner, key| table(key, Value::Table(inner)))
}

/// Puts `layer` over `base`; every key must be known, and its value of the same type.
fn overlay(base: &mut Table, layer: Table, prefix: &str, place: &str) -> Result<()> {
    for (key, value) in layer {
        let full = format!("{prefix}{key}");
        let optional = OPTIONAL.iter().find(|(name, _)| prefix.is_empty() && *name == key).map(|(_, value)| value);
        let Some(known) = base.get(&key).or(optional) else {
            return Err(unknown(&full, base, prefix, place));
        };
        let value = match (known, value) {
            (Value::Table(_), value) if full == "conv" || full == "schedule" => {
                let mut options = base[&key].as_table().cloned().unwrap_or_default();
                let changes = choose(&full, &mut options, value, place)?;
                overlay(&mut options, changes, &format!("{full}."), place)?;
                Value::Table(options)
            }
            (Value::Float(_), Value::Integer(value)) => Value::Float(value as f64),
            (known, value) if known.same_type(&value) => value,
            (known, value) => {
                let (expected, got) = (known.type_str(), value.type_str());
                return Err(config(place, format!("`{full}` is of type {got}, expected {expected}")));
            }
        };
        base.insert(key, value);
    }
    Ok(())
}

/// A kind of convolution or a schedule: if `value` names another one than `options` holds, `options` becomes its
/// defaults. What remains are changes to them.
fn choose(key: &str, options: &mut Table, value: Value, place: &str) -> Result<Table> {
    let mut changes = match value {
        Value::String(name) => Table::from_iter([("kind".to_owned(), Value::String(name))]),
        Value::Table(changes) => changes,
        other => return Err(config(place, format!("`{key}` is of type {}, expected a name", other.type_str()))),
    };
    if let Some(kind) = changes.remove("kind") {
        let name = kind.as_str().unwrap_or_default();
        let (defaults, names) = match key {
            "conv" => (ConvKind::named(name).map(Table::try_from), ConvKind::NAMES),
            _ => (Schedule::named(name).map(Table::try_from), Schedule::NAMES),
        };
        let Some(Ok(defaults)) = defaults else {
            return Err(config(place, format!("`{key}`: `{name}` is none of {}", names.join(", "))));
        };
        if options.get("kind") != defaults.get("kind") {
            *options = defaults;
        }
    }
    Ok(changes)
}

fn unknown(full: &str, base: &Table, prefix: &str, place: &str) -> Error {
    let optional = OPTIONAL.iter().filter(|_| prefix.is_empty()).map(|(name, _)| *name);
    let known = base.keys().map(String::as_str).chain(optional).map(|key| format!("{prefix}{key}"));
    let nearest = known.min_by_key(|known| strsim::damerau_levenshtein(known, full)).unwrap_or_default();
    config(place, format!("there is no key `{full}`; the nearest is `{nearest}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(file: &str, sets: &[(&str, &str)]) -> Result<Config> {
        let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::resolve(Some(file), Table::new(), &sets)
    }

    #[test]
    fn each_layer_beats_the_one_before() {
        let flags = Table::from_iter([("lr".to_owned(), Value::Float(0.2)), ("epochs".to_owned(), Value::Integer(7))]);
        let sets = [("lr".to_owned(), "0.3".to_owned()), ("conv.m".to_owned(), "5".to_owned())];
        let config = Config::resolve(Some("dataset = 'cifar10'\nepochs = 5\nseed = 4"), flags, &sets).unwrap();
        assert_eq!((config.batch_size, config.epochs, config.seed, config.lr), (128, 7, 4, 0.3));
        assert!(matches!(config.conv, ConvKind::MdConv(options) if options.m == 5));
    }

    #[test]
    fn a_written_configuration_gives_the_same_one() {
        for (key, value) in [("conv", "static"), ("conv", "maconv"), ("conv.gate", "softmax"), ("schedule", "step")] {
            let config = resolve("limit = 10", &[(key, value)]).unwrap();
            assert_eq!(Config::resolve(Some(&config.to_toml()), Table::new(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (sets, says) in [
            (("leanring", "1"), "there is no key `leanring`"),
            (("conv.hiden", "1"), "the nearest is `conv.hidden`"),
            (("conv", "mdcov"), "none of static, maconv, mdconv"),
            (("epochs", "many"), "expected integer"),
            (("momentum", "1.0"), "below 1"),
            (("conv.m", "0"), "m = 0"),
        ] {
            let error = resolve("", &[sets]).unwrap_err();
            assert_eq!(error.exit_status(), 4);
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(resolve("conv = 'static'", &[("conv.m", "4")]).unwrap_err().to_string().contains("conv.m"));
    }
}
