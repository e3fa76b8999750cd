//! SVHN, cropped digits (Netzer et al., *Reading Digits in Natural Images with Unsupervised Feature Learning*, 2011):
//! `train_32x32.mat`, `test_32x32.mat` and, where asked for, `extra_32x32.mat`.
//!
//! Each is a MAT-file with `X`, bytes of shape [32, 32, 3, N] (row, column, channel, image; the row fastest), and `y`, bytes of
//! shape [N, 1], labels 1..=10, where 10 stands for the digit 0.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::mat::{Array, for_each_array};
use super::place::{Place, invalid};
use super::{Context, Kind, Read, Set, names};
use crate::catalogue::{Download, Files, Form, Source, Supply};
use crate::{Augment, Dataset, Result, Split};

pub(super) static SET: Set = Set {
    name: "svhn",
    about: "SVHN: house numbers cut into digits, 32 x 32 RGB, 10 classes: 73,257 to train on, 26,032 held out; 531,131 extra",
    terms: "for non-commercial use; cite Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011",
    home: "http://ufldl.stanford.edu/housenumbers/",
    augment: Augment { pad: 2, flip: true },
    options: &["fraction", "folder", "extra"],
    supply: Supply::Download(Files {
        folder: FOLDER,
        downloads: &[
            mat(TRAIN, SOURCES[0].as_slice(), false),
            mat(TEST, SOURCES[1].as_slice(), false),
            mat(EXTRA, SOURCES[2].as_slice(), true),
        ],
        members: &[],
        extras: &[],
    }),
    read,
};

const FOLDER: &str = "svhn";
const TRAIN: &str = "train_32x32.mat";
const TEST: &str = "test_32x32.mat";
const EXTRA: &str = "extra_32x32.mat";
const SHAPE: [usize; 3] = [3, 32, 32];
const SIDE: usize = 32;
const IMAGE: usize = 3 * SIDE * SIDE;
/// Images in the official files, extra ones apart.
const OFFICIAL: [usize; 2] = [73_257, 26_032];

const fn mat(file: &'static str, sources: &'static [Source], optional: bool) -> Download {
    Download { file, form: Form::Plain { magic: b"MATLAB 5.0 MAT-file" }, sources, optional }
}

static SOURCES: [[Source; 1]; 3] = [
    source(
        "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
        182_040_794,
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    source(
        "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
        64_275_384,
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
    source(
        "http://ufldl.stanford.edu/housenumbers/extra_32x32.mat",
        1_329_278_602,
        "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
    ),
];

const fn source(url: &'static str, size: u64, sha256: &'static str) -> [Source; 1] {
    [Source { url: Cow::Borrowed(url), size, sha256: Cow::Borrowed(sha256) }]
}

fn read(context: &Context<'_>) -> Result<Read> {
    let place = Place::fetched(SET.name, context.data_dir, FOLDER, context.options);
    let (mut train, mut test, mut remarks) = (Digits::default(), Digits::default(), Vec::new());
    for (part, name, official) in [(&mut train, TRAIN, OFFICIAL[0]), (&mut test, TEST, OFFICIAL[1])] {
        let path = place.path(name);
        read_file(&place, &path, part)?;
        let images = part.labels.len();
        if images != official {
            remarks.push(format!("`{}` has {images} images, the official file {official}", path.display()));
        }
    }
    if context.options.extra == Some(true) {
        read_file(&place, &place.path(EXTRA), &mut train)?;
    }
    let part = |digits: Digits| {
        let classes = names("0 1 2 3 4 5 6 7 8 9");
        Dataset::new(Kind::Svhn.name(), SHAPE, 255, classes, digits.pixels, digits.labels)
    };
    Ok(Read { split: Split { train: part(train)?, test: part(test)? }, normalisation: None, remarks })
}

/// Images of one or more files.
#[derive(Default)]
struct Digits {
    /// `N, H, W, C`.
    pixels: Vec<u8>,
    labels: Vec<usize>,
}

/// Appends the images of a file.
fn read_file(place: &Place<'_>, path: &Path, digits: &mut Digits) -> Result<()> {
    let (file, size) = place.open(path)?;
    let before = digits.labels.len();
    let (mut has_images, mut has_labels) = (false, false);
    let read = for_each_array(file, size, |array| match array.name.as_str() {
        "X" if !std::mem::replace(&mut has_images, true) => images(array, &mut digits.pixels),
        "y" if !std::mem::replace(&mut has_labels, true) => labels(array, &mut digits.labels),
        name @ ("X" | "y") => Err(invalid(format!("`{name}` is there twice"))),
        _ => Ok(()),
    });
    read.map_err(|e| place.unreadable(path, e))?;
    let (of_images, of_labels) = (digits.pixels.len() / IMAGE - before, digits.labels.len() - before);
    let problem = match (has_images, has_labels) {
        (false, _) => "there is no array `X`".to_owned(),
        (_, false) => "there is no array `y`".to_owned(),
        _ if of_images != of_labels => format!("{of_images} images in `X` and {of_labels} labels in `y`"),
        _ if of_images == 0 => "there are no images".to_owned(),
        _ => return Ok(()),
    };
    Err(place.broken(path, None, problem))
}

fn images(array: &mut Array<'_>, pixels: &mut Vec<u8>) -> io::Result<()> {
    let count = match array.dimensions[..] {
        [SIDE, SIDE, 3, count] => count,
        [SIDE, SIDE, 3] => 1, // a last dimension of 1 is not written
        _ => return Err(invalid(format!("`X` has shape {:?}, expected [32, 32, 3, N]", array.dimensions))),
    };
    let bytes = check_bytes(array, "X", count, IMAGE)?;
    pixels.try_reserve_exact(bytes).map_err(|_| invalid(format!("`X` takes {bytes} bytes, which are not there")))?;
    let mut columns = [0; IMAGE];
    for _ in 0..count {
        array.read(&mut columns)?;
        for row in 0..SIDE {
            for column in 0..SIDE {
                // Rows lie closest, then columns, then channels.
                pixels.extend((0..3).map(|channel| columns[(channel * SIDE + column) * SIDE + row]));
            }
        }
    }
    Ok(())
}

fn labels(array: &mut Array<'_>, labels: &mut Vec<usize>) -> io::Result<()> {
    let count = match array.dimensions[..] {
        [count, 1] | [1, count] => count,
        _ => return Err(invalid(format!("`y` has shape {:?}, expected [N, 1]", array.dimensions))),
    };
    let bytes = check_bytes(array, "y", count, 1)?;
    let mut read = Vec::new();
    read.try_reserve_exact(bytes).map_err(|_| invalid(format!("`y` takes {bytes} bytes, which are not there")))?;
    read.resize(bytes, 0);
    array.read(&mut read)?;
    if let Some((at, wrong)) = read.iter().enumerate().find(|(_, label)| !(1..=10).contains(*label)) {
        return Err(invalid(format!("label {wrong} of image {at} is none of 1..=10")));
    }
    labels.extend(read.iter().map(|&label| usize::from(label % 10)));
    Ok(())
}

/// The bytes of `count` items, which must be those that follow in the file.
fn check_bytes(array: &Array<'_>, name: &str, count: usize, each: usize) -> io::Result<usize> {
    if !array.is_bytes {
        return Err(invalid(format!("the values of `{name}` are no bytes (uint8)")));
    }
    match count.checked_mul(each) {
        Some(bytes) if bytes as u64 == array.length => Ok(bytes),
        _ => Err(invalid(format!("{} bytes follow for {count} x {each} values of `{name}`", array.length))),
    }
}

#[cfg(test)]
mod tests;
