//! What a user may ask of a set: which of its images, and in what form.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Normalisation, Result};

/// The options of a data set. One that is not given has the set's own default; one that the set does not know is an error.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct SetOptions {
    /// The share of the training images to keep, above 0 and at most 1: of a class with n images the first ⌈share·n⌉.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// The set's folder below the data folder, in place of its usual name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Which labels of CIFAR-100; fine by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Whether SVHN's extra images are trained on too; false by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<bool>,
    /// Which of EMNIST's ways to split; balanced by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<EmnistSplit>,
    /// Height and width in pixels that image files are brought to; 224 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_size: Option<usize>,
    /// How an image file is resized before its centre is cut out; shorter by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Which part of a training image is shown where images are augmented; resized by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// Whether image files that cannot be read are left out, with a remark, and not an error; false by default. Every file is
    /// decoded once for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_broken: Option<bool>,
}

/// The labels of CIFAR-100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Labels {
    /// 100 classes.
    #[default]
    Fine,
    /// 20 superclasses of 5 classes each.
    Coarse,
}

/// The splits of EMNIST (Cohen, Afshar, Tapson, van Schaik 2017, table II).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmnistSplit {
    /// 47 classes, as many images of each: digits, capitals, and those small letters that differ from their capital.
    #[default]
    Balanced,
    /// 62 classes: digits, capitals, small letters; as many images as there are.
    ByClass,
    /// The 47 classes with as many images as there are.
    ByMerge,
    /// 26 letters, capital and small ones together.
    Letters,
    /// 10 digits, 280,000 images.
    Digits,
    /// 10 digits, as many images as MNIST.
    Mnist,
}

/// How an image file is resized before its centre is cut out; both resize to 256 for an input of 224, and to other inputs in
/// that proportion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The shorter side; the other follows in proportion.
    #[default]
    Shorter,
    /// Both sides: the image is squeezed to a square.
    Square,
}

/// Which part of an image file is shown to a network in training, where images are augmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Crop {
    /// A part of random area (0.08 to 1 of the image's), aspect (3/4 to 4/3) and place, resized to the input.
    #[default]
    Resized,
    /// The centre, as at evaluation.
    Centre,
}

impl SetOptions {
    /// The names of all options, as files and the command line write them.
    pub const KEYS: &[&str] =
        &["fraction", "folder", "labels", "extra", "split", "input-size", "resize", "crop", "skip-broken"];

    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == SetOptions::default()
    }

    /// The options under which `kind` fits a network with this `input` = `[C, H, W]` and this number of classes, where a set has
    /// several forms; the rest as in `self`.
    #[must_use]
    pub fn fitting(&self, kind: Kind, input: [usize; 3], classes: usize) -> Self {
        let mut options = self.clone();
        let takes = |key| kind.options().contains(&key);
        if takes("split") {
            options.split = options.split.or(match classes {
                62 => Some(EmnistSplit::ByClass),
                26 => Some(EmnistSplit::Letters),
                10 => Some(EmnistSplit::Digits),
                _ => None,
            });
        }
        if takes("labels") {
            options.labels = options.labels.or((classes == 20).then_some(Labels::Coarse));
        }
        if takes("input-size") {
            options.input_size = options.input_size.or(Some(input[1]));
        }
        options
    }

    /// Checks ranges, and that `kind` knows every option given.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names the option.
    pub fn check(&self, kind: Kind) -> Result<()> {
        let given = [
            self.fraction.is_some(),
            self.folder.is_some(),
            self.labels.is_some(),
            self.extra.is_some(),
            self.split.is_some(),
            self.input_size.is_some(),
            self.resize.is_some(),
            self.crop.is_some(),
            self.skip_broken.is_some(),
        ];
        let given = SetOptions::KEYS.iter().zip(given).filter_map(|(&key, given)| given.then_some(key));
        for key in given {
            if !kind.options().contains(&key) {
                let owners = Kind::ALL.iter().filter(|other| other.options().contains(&key)).map(|other| other.name());
                let owners = owners.collect::<Vec<_>>().join(", ");
                return Err(Error::invalid(key, format!("{kind} has no such option; it is one of {owners}")));
            }
        }
        if let Some(fraction) = self.fraction
            && !(fraction > 0.0 && fraction <= 1.0)
        {
            return Err(Error::invalid("fraction", format!("{fraction} is no share above 0 and at most 1")));
        }
        if let Some(size) = self.input_size
            && !(1..=MAX_INPUT).contains(&size)
        {
            return Err(Error::invalid("input-size", format!("{size} pixels: from 1 to {MAX_INPUT}")));
        }
        Ok(())
    }
}

/// No image file is brought to more pixels along a side.
pub const MAX_INPUT: usize = 4096;

/// What to load of a set. A limit alone stands for itself: `load(kind, dir, Some(100))`, `load(kind, dir, None)`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// The first training and the first held-out images, so many of each; after [`SetOptions::fraction`].
    pub limit: Option<usize>,
    /// The options of the set.
    pub options: SetOptions,
    /// The normalisation where it is known already, as it is from a model; the training images are not measured then.
    pub normalisation: Option<Normalisation>,
}

impl From<Option<usize>> for Request {
    fn from(limit: Option<usize>) -> Self {
        Request { limit, ..Request::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_written_as_their_names_say_and_read_back() {
        let options = SetOptions {
            fraction: Some(0.25),
            folder: Some("photos".into()),
            labels: Some(Labels::Coarse),
            extra: Some(true),
            split: Some(EmnistSplit::ByClass),
            input_size: Some(96),
            resize: Some(Resize::Square),
            crop: Some(Crop::Centre),
            skip_broken: Some(true),
        };
        let json = serde_json::to_value(&options).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known = SetOptions::KEYS.to_vec();
        known.sort_unstable();
        assert_eq!(keys, known);
        assert_eq!(
            (&json["labels"], &json["split"], &json["crop"]),
            (&"coarse".into(), &"byclass".into(), &"centre".into())
        );
        assert_eq!(serde_json::from_value::<SetOptions>(json).unwrap(), options);
        assert_eq!(serde_json::to_string(&SetOptions::default()).unwrap(), "{}");
        assert!(SetOptions::default().is_empty() && !options.is_empty());
    }

    #[test]
    fn an_option_of_another_set_names_that_set() {
        let coarse = SetOptions { labels: Some(Labels::Coarse), ..SetOptions::default() };
        coarse.check(Kind::Cifar100).unwrap();
        let error = coarse.check(Kind::Cifar10).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage);
        assert_eq!(error.to_string(), "labels: cifar10 has no such option; it is one of cifar100");
        for key in SetOptions::KEYS {
            assert!(Kind::ALL.iter().any(|kind| kind.options().contains(key)), "{key} belongs to no set");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_with_their_numbers() {
        for fraction in [0.0, -0.5, 1.5, f64::NAN] {
            let options = SetOptions { fraction: Some(fraction), ..SetOptions::default() };
            let text = options.check(Kind::Digits).unwrap_err().to_string();
            assert!(text.starts_with(&format!("fraction: {fraction}")), "{text}");
        }
        for size in [0, MAX_INPUT + 1] {
            let options = SetOptions { input_size: Some(size), ..SetOptions::default() };
            assert!(options.check(Kind::Folder).unwrap_err().to_string().contains(&format!("{size} pixels")));
        }
    }

    #[test]
    fn a_network_says_in_which_form_it_takes_a_set() {
        let none = SetOptions::default();
        assert_eq!(none.fitting(Kind::Cifar100, [3, 32, 32], 20).labels, Some(Labels::Coarse));
        assert_eq!(none.fitting(Kind::Cifar100, [3, 32, 32], 100), none);
        assert_eq!(none.fitting(Kind::Imagenet, [3, 96, 96], 10).input_size, Some(96));
        assert_eq!(none.fitting(Kind::Digits, [1, 8, 8], 20), none);
    }
}
