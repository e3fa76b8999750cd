//! The sets that can be trained on. A set is one file here, one variant of [`Kind`] and one line in [`Kind::set`].

mod cifar;
mod cifar10;
mod cifar100;
mod digits;
mod folder;
mod idx;
mod mat;
mod mnist;
mod place;
mod svhn;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::catalogue::Supply;
use crate::options::Request;
use crate::{Augment, Error, Normalisation, Result, SetOptions, Split};

/// The name of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// UCI handwritten digits, 8 x 8 grey, embedded in the program.
    Digits,
    /// CIFAR-10, 32 x 32 RGB, in its official binary layout.
    Cifar10,
    /// CIFAR-100, 32 x 32 RGB, in its official binary layout.
    Cifar100,
    /// SVHN's cropped digits, 32 x 32 RGB, in MAT-files.
    Svhn,
    /// MNIST, 28 x 28 grey, in IDX files.
    Mnist,
    /// Fashion-MNIST, 28 x 28 grey, in IDX files.
    FashionMnist,
    /// EMNIST, 28 x 28 grey, in IDX files.
    Emnist,
    /// ImageNet, RGB, in a folder of image files; with its own mean and deviation.
    Imagenet,
    /// The user's image files, RGB, in a folder.
    Folder,
    /// The user's IDX files, grey.
    Idx,
}

impl Kind {
    /// Whether its images are photos of any size, of which a network is shown a part.
    pub fn is_of_photos(self) -> bool {
        self.options().contains(&"input-size")
    }
}

/// What is known of a set before its files are read.
pub(crate) struct Set {
    pub name: &'static str,
    pub about: &'static str,
    pub terms: &'static str,
    pub home: &'static str,
    /// What its usual recipe does to training images.
    pub augment: Augment,
    /// The options that it knows, of [`SetOptions::KEYS`].
    pub options: &'static [&'static str],
    /// How it comes.
    pub supply: Supply,
    /// Reads the set, whole.
    pub read: fn(&Context<'_>) -> Result<Read>,
}

/// Where a set is read from and in which form.
pub(crate) struct Context<'a> {
    /// The folder that *contains* the sets.
    pub data_dir: &'a Path,
    /// Checked: nothing in them is out of range or of another set.
    pub options: &'a SetOptions,
}

/// A set as read: both parts whole, and what its user should know.
pub(crate) struct Read {
    pub split: Split,
    /// Where the set's recipe has fixed figures; measured otherwise.
    pub normalisation: Option<Normalisation>,
    pub remarks: Vec<String>,
}

impl Kind {
    /// All sets.
    pub const ALL: &[Kind] = &[
        Kind::Digits,
        Kind::Cifar10,
        Kind::Cifar100,
        Kind::Svhn,
        Kind::Mnist,
        Kind::FashionMnist,
        Kind::Emnist,
        Kind::Imagenet,
        Kind::Folder,
        Kind::Idx,
    ];

    pub(crate) fn set(self) -> &'static Set {
        match self {
            Kind::Digits => &digits::SET,
            Kind::Cifar10 => &cifar10::SET,
            Kind::Cifar100 => &cifar100::SET,
            Kind::Svhn => &svhn::SET,
            Kind::Mnist => &mnist::MNIST,
            Kind::FashionMnist => &mnist::FASHION,
            Kind::Emnist => &mnist::EMNIST,
            Kind::Imagenet => &folder::IMAGENET,
            Kind::Folder => &folder::FOLDER,
            Kind::Idx => &idx::SET,
        }
    }

    /// The name, as it is written on the command line and in files.
    pub fn name(self) -> &'static str {
        self.set().name
    }

    /// What the set's usual recipe does to training images, beside the random part that is shown of an image file: for example pad
    /// 1 for the digits; pad 2 and flip for CIFAR-10.
    pub fn augment(self) -> Augment {
        self.set().augment
    }

    /// The options that the set knows, of [`SetOptions::KEYS`].
    pub fn options(self) -> &'static [&'static str] {
        self.set().options
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        if let Some(&kind) = Kind::ALL.iter().find(|kind| kind.name() == name) {
            return Ok(kind);
        }
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        let distance = |known: &&&str| strsim::damerau_levenshtein(known, &name.to_lowercase());
        let nearest = names.iter().min_by_key(distance).expect("there are sets");
        Err(Error::UnknownSet { name: name.to_owned(), nearest, known: names.join(", ") })
    }
}

/// A set ready to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Training and held-out images, cut to the fraction and the limit.
    pub split: Split,
    /// Mean and deviation of the whole training files, whatever fraction and limit.
    pub normalisation: Normalisation,
    /// What the user should know of the files, one sentence each: for example that one is shorter than the official one.
    pub remarks: Vec<String>,
}

/// Reads a set from `data_dir`, the folder that *contains* the sets under their official folder names; an embedded set
/// reads nothing there, and `folder` and `idx` are that folder. `request` is a limit or a whole [`Request`].
///
/// # Errors
/// [`Error::Missing`], [`Error::Broken`] or [`Error::Io`], naming the file and the record; [`Error::Invalid`] for an option that
/// is out of range or that the set does not know.
pub fn load(kind: Kind, data_dir: &Path, request: impl Into<Request>) -> Result<Loaded> {
    let Request { limit, options, normalisation } = request.into();
    if limit == Some(0) {
        return Err(Error::invalid("limit", "0 leaves no image: at least 1"));
    }
    options.check(kind)?;
    let Read { mut split, normalisation: of_recipe, mut remarks } =
        (kind.set().read)(&Context { data_dir, options: &options })?;
    let normalisation = match normalisation.or(of_recipe) {
        Some(known) => known,
        None => Normalisation::of(&split.train)?,
    };
    if let Some(fraction) = options.fraction {
        split.train.keep_fraction(fraction)?;
    }
    if let Some(limit) = limit {
        let before = split.train.missing_classes();
        split.train.truncate(limit);
        split.test.truncate(limit);
        let missing = split.train.missing_classes();
        if missing > before {
            let classes = split.train.classes().len();
            remarks.push(format!(
                "the first {} training images show {} of {classes} classes",
                split.train.len(),
                classes - missing
            ));
        }
    }
    Ok(Loaded { split, normalisation, remarks })
}

/// The names in a text, blanks between them.
fn names(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dataset;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for &kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn an_unknown_name_is_told_its_nearest() {
        for (name, nearest) in
            [("cifar-10", "cifar10"), ("CIFAR10", "cifar10"), ("digit", "digits"), ("imagnet", "imagenet")]
        {
            let error = name.parse::<Kind>().unwrap_err();
            assert!(error.to_string().contains(&format!("did you mean `{nearest}`")), "{error}");
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
        }
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert!(load(Kind::Digits, Path::new("."), Some(0)).unwrap_err().to_string().contains("at least 1"));
    }

    #[test]
    fn a_fraction_keeps_every_class_and_the_normalisation_of_all() {
        let options = SetOptions { fraction: Some(0.25), ..SetOptions::default() };
        let whole = load(Kind::Digits, Path::new("."), None).unwrap();
        let quarter = load(Kind::Digits, Path::new("."), Request { options, ..Request::default() }).unwrap();
        let count = |data: &Dataset, class| data.labels().iter().filter(|&&label| label == class).count();
        for class in 0..10 {
            assert_eq!(count(&quarter.split.train, class), count(&whole.split.train, class).div_ceil(4), "{class}");
        }
        assert_eq!((&quarter.split.test, &quarter.normalisation), (&whole.split.test, &whole.normalisation));
        assert!(quarter.remarks.is_empty());
    }

    #[test]
    fn a_limit_that_hides_classes_is_remarked_on() {
        let loaded = load(Kind::Digits, Path::new("."), Some(3)).unwrap();
        assert_eq!(loaded.remarks, ["the first 3 training images show 3 of 10 classes"]);
    }

    #[test]
    fn a_normalisation_that_is_known_is_not_measured() {
        let known = Normalisation { mean: vec![0.5], std: vec![0.25] };
        let request = Request { normalisation: Some(known.clone()), ..Request::default() };
        assert_eq!(load(Kind::Digits, Path::new("."), request).unwrap().normalisation, known);
    }
}
