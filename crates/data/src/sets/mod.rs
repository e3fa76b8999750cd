//! The sets that can be trained on. A set is one file here, one variant of [`Kind`] and one line in [`Kind::set`].

mod cifar10;
mod digits;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::catalogue::{Member, Source};
use crate::{Augment, Dataset, Error, Normalisation, Result, Split};

/// The name of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// UCI handwritten digits, 8 x 8 grey, embedded in the program.
    Digits,
    /// CIFAR-10, 32 x 32 RGB, in its official binary layout.
    Cifar10,
}

/// What is known of a set before its files are read.
pub(crate) struct Set {
    pub name: &'static str,
    pub about: &'static str,
    pub terms: &'static str,
    pub home: &'static str,
    /// `[C, H, W]`.
    pub shape: [usize; 3],
    pub classes: &'static [&'static str],
    /// What its usual recipe does to training images.
    pub augment: Augment,
    /// The set's file where it is part of the program, and its SHA-256.
    pub embedded: Option<(&'static [u8], &'static str)>,
    /// The set's files where it is not.
    pub files: Option<Files>,
    /// Reads the set from the data folder, whole.
    pub read: fn(&Path) -> Result<Read>,
}

/// The files of a set that is not embedded.
pub(crate) struct Files {
    /// The folder below the data folder, by its official name.
    pub folder: &'static str,
    /// The archive's official file name.
    pub archive: &'static str,
    /// Where the archive can be had, the official place first.
    pub sources: &'static [Source],
    /// What must lie in the folder.
    pub members: &'static [Member],
    /// Texts in the archive that are kept and that nobody checks.
    pub extras: &'static [&'static str],
}

/// A set as read: both parts whole, and what its user should know.
pub(crate) struct Read {
    pub split: Split,
    pub remarks: Vec<String>,
}

impl Kind {
    /// All sets.
    pub const ALL: &[Kind] = &[Kind::Digits, Kind::Cifar10];

    pub(crate) fn set(self) -> &'static Set {
        match self {
            Kind::Digits => &digits::SET,
            Kind::Cifar10 => &cifar10::SET,
        }
    }

    /// The name, as it is written on the command line and in files.
    pub fn name(self) -> &'static str {
        self.set().name
    }

    /// What the set's usual recipe does to training images: pad 1 for the digits; pad 2 and flip for CIFAR-10.
    pub fn augment(self) -> Augment {
        self.set().augment
    }

    /// The shape of an image, `[C, H, W]`.
    pub fn shape(self) -> [usize; 3] {
        self.set().shape
    }

    /// The names of the classes, in the order of the labels.
    pub fn classes(self) -> Vec<String> {
        self.set().classes.iter().map(|&class| class.to_owned()).collect()
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
    /// Training and held-out images, cut to the limit.
    pub split: Split,
    /// Mean and deviation of the whole training files, whatever the limit.
    pub normalisation: Normalisation,
    /// What the user should know of the files, one sentence each: for example that one is shorter than the official one.
    pub remarks: Vec<String>,
}

/// Reads a set from `data_dir`, the folder that *contains* the sets under their official folder names; an embedded set
/// reads nothing there. `limit` keeps the first training and the first held-out images, so many of each.
///
/// # Errors
/// [`Error::Missing`], [`Error::Broken`] or [`Error::Io`], naming the file and the record; [`Error::Invalid`] for a limit of 0.
pub fn load(kind: Kind, data_dir: &Path, limit: Option<usize>) -> Result<Loaded> {
    if limit == Some(0) {
        return Err(Error::invalid("limit", "0 leaves no image: at least 1"));
    }
    let Read { mut split, remarks } = (kind.set().read)(data_dir)?;
    let normalisation = Normalisation::of(&split.train)?;
    if let Some(limit) = limit {
        split.train.truncate(limit);
        split.test.truncate(limit);
    }
    Ok(Loaded { split, normalisation, remarks })
}

/// One part of `kind` from its pixels (0..=`maximum`, in the order `N, H, W, C`) and labels.
fn dataset(kind: Kind, maximum: u8, pixels: Vec<u8>, labels: Vec<usize>) -> Result<Dataset> {
    Dataset::new(kind.name(), kind.shape(), maximum, kind.classes(), pixels, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for &kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn an_unknown_name_is_told_its_nearest() {
        for (name, nearest) in [("cifar-10", "cifar10"), ("CIFAR10", "cifar10"), ("digit", "digits")] {
            let error = name.parse::<Kind>().unwrap_err();
            assert!(error.to_string().contains(&format!("did you mean `{nearest}`")), "{error}");
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
        }
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert!(load(Kind::Digits, Path::new("."), Some(0)).unwrap_err().to_string().contains("at least 1"));
    }
}
