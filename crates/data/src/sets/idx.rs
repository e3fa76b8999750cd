//! The IDX format of MNIST (Y. LeCun, C. Cortes, C. Burges), plain or gzipped:
//!
//! ```text
//! 0 0 8 D     two zeros, the type (8: bytes), the number of dimensions
//! u32 · D     the dimensions, big-endian
//! bytes       the values, the last index fastest
//! ```
//! A set is four files: images [N, H, W] and labels [N], to train on and held out.

use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::place::{MAX_RATIO, Place, invalid};
use super::{Context, Kind, Read, Set};
use crate::catalogue::{ByHand, State, Supply, Verdicts};
use crate::{Augment, Dataset, Error, Result, Split};

pub(super) static SET: Set = Set {
    name: "idx",
    about: "your own images in four IDX files, as MNIST has them; grey, of any size, classes by number",
    terms: "yours",
    home: "https://yann.lecun.com/exdb/mnist/",
    augment: Augment { pad: 2, flip: false },
    options: &["fraction", "folder"],
    supply: Supply::ByHand(ByHand {
        how: "place train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each \
              plain or as .gz, in a folder and name it with --data-dir",
        state,
        verify,
    }),
    read,
};

/// A side of an image beyond which a file is refused.
const MAX_SIDE: usize = 4096;

/// The names of the four files, without the `.gz` that may follow.
pub(super) struct Names<'a> {
    pub train: [&'a str; 2],
    pub test: [&'a str; 2],
}

/// MNIST's own names; `test-…` is understood in place of `t10k-…`.
pub(super) const NAMES: Names<'_> = Names {
    train: ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
    test: ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
};

/// What a set of IDX files is.
pub(super) struct Layout<'a> {
    pub kind: Kind,
    pub names: Names<'a>,
    /// The names of the classes; numbers, as many as occur, where there are none.
    pub classes: Option<Vec<String>>,
    /// The label of the first class.
    pub first_label: u8,
    /// Whether the images lie column by column.
    pub transposed: bool,
}

fn read(context: &Context<'_>) -> Result<Read> {
    let place = place(context);
    Layout { kind: Kind::Idx, names: NAMES, classes: None, first_label: 0, transposed: false }.read(&place)
}

fn place<'a>(context: &Context<'a>) -> Place<'a> {
    let remedy = "name the folder of the four files with --data-dir".to_owned();
    Place::new(SET.name, context.data_dir, "", context.options, remedy)
}

fn state(data_dir: &Path) -> State {
    let there = |name: &&str| find(data_dir, name).is_some();
    match NAMES.train.iter().chain(&NAMES.test).all(there) {
        true => State::Present(data_dir.to_owned()),
        false => State::Absent(data_dir.to_owned()),
    }
}

fn verify(data_dir: &Path) -> Verdicts {
    let options = Default::default();
    vec![(data_dir.to_owned(), read(&Context { data_dir, options: &options }).map(|_| ()))]
}

impl Layout<'_> {
    /// Reads the four files.
    pub(super) fn read(&self, place: &Place<'_>) -> Result<Read> {
        let [train, test] = [self.part(place, self.names.train)?, self.part(place, self.names.test)?];
        let (train_sides, test_sides) = (train.sides, test.sides);
        if train_sides != test_sides {
            let path = located(place, self.names.test[0])?;
            let problem = format!("images of {test_sides:?} pixels, those to train on have {train_sides:?}");
            return Err(place.broken(&path, None, problem));
        }
        let classes = match &self.classes {
            Some(classes) => classes.clone(),
            None => {
                let largest = train.labels.iter().chain(&test.labels).max().copied().unwrap_or(0);
                (0..=largest).map(|class| class.to_string()).collect()
            }
        };
        let part = |part: Part| {
            let [h, w] = part.sides;
            Dataset::new(self.kind.name(), [1, h, w], 255, classes.clone(), part.pixels, part.labels)
        };
        Ok(Read { split: Split { train: part(train)?, test: part(test)? }, normalisation: None, remarks: Vec::new() })
    }

    fn part(&self, place: &Place<'_>, [images, labels]: [&str; 2]) -> Result<Part> {
        let images_path = located(place, images)?;
        let ([count, h, w], mut pixels) = read_file::<3>(place, &images_path)?;
        if [h, w].iter().any(|side| !(1..=MAX_SIDE).contains(side)) || count == 0 {
            return Err(place.broken(&images_path, None, format!("{count} images of {h} x {w} pixels")));
        }
        let path = located(place, labels)?;
        let ([labels], mut values) = read_file::<1>(place, &path)?;
        if labels != count {
            return Err(place.broken(&path, None, format!("{labels} labels for {count} images")));
        }
        let known = self.classes.as_ref().map_or(usize::from(u8::MAX) + 1, Vec::len);
        let last = usize::from(self.first_label) + known - 1;
        for (index, label) in values.iter_mut().enumerate() {
            if *label < self.first_label || usize::from(*label) > last {
                let problem = format!("label {label} is none of {}..={last}", self.first_label);
                return Err(place.broken(&path, Some(index), problem));
            }
            *label -= self.first_label;
        }
        if self.transposed {
            if h != w {
                return Err(place.broken(&images_path, None, format!("{h} x {w} pixels, squares were expected")));
            }
            pixels.chunks_exact_mut(h * w).for_each(|image| transpose(image, h));
        }
        Ok(Part { sides: [h, w], pixels, labels: values.into_iter().map(usize::from).collect() })
    }
}

struct Part {
    sides: [usize; 2],
    pixels: Vec<u8>,
    labels: Vec<usize>,
}

/// Turns a square image about its diagonal.
fn transpose(image: &mut [u8], side: usize) {
    for i in 0..side {
        for j in 0..i {
            image.swap(i * side + j, j * side + i);
        }
    }
}

/// The file of that name, plain or gzipped, also as some copies write it: `-images.idx3-ubyte`, `test-` for `t10k-`.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let spellings = [name.to_owned(), name.replace("-idx", ".idx"), name.replace("t10k-", "test-")];
    let files = spellings.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    files.into_iter().find(|path| path.exists())
}

fn located(place: &Place<'_>, name: &str) -> Result<PathBuf> {
    match find(&place.folder, name) {
        Some(path) => Ok(path),
        // Opening what is not there makes the error that says so.
        None => place.open(&place.path(name)).map(|_| place.path(name)),
    }
}

/// The dimensions and the bytes of a file with `D` dimensions.
fn read_file<const D: usize>(place: &Place<'_>, path: &Path) -> Result<([usize; D], Vec<u8>)> {
    let (file, size) = place.open(path)?;
    let file = BufReader::with_capacity(1 << 17, file);
    let read = match path.extension().is_some_and(|extension| extension == "gz") {
        true => {
            let most = size.saturating_mul(MAX_RATIO);
            read_values(GzDecoder::new(file).take(most), most)
        }
        false => read_values(file, size),
    };
    read.map_err(|e: io::Error| -> Error { place.unreadable(path, e) })
}

/// Reads header and values; `most` bytes can come at most, whatever the header says.
fn read_values<const D: usize>(mut from: impl io::Read, most: u64) -> io::Result<([usize; D], Vec<u8>)> {
    let mut magic = [0; 4];
    from.read_exact(&mut magic)?;
    if magic[..3] != [0, 0, 8] || usize::from(magic[3]) != D {
        return Err(invalid(format!(
            "it begins with {magic:?}, an IDX file of bytes in {D} dimensions with [0, 0, 8, {D}]"
        )));
    }
    let (mut dimensions, mut count) = ([0; D], 1u64);
    for dimension in &mut dimensions {
        let mut bytes = [0; 4];
        from.read_exact(&mut bytes)?;
        let extent = u32::from_be_bytes(bytes);
        *dimension = extent as usize;
        count = count.saturating_mul(u64::from(extent));
    }
    if count > most {
        let why =
            format!("{dimensions:?} values are promised, at most {most} bytes can follow: it is cut off or damaged");
        return Err(invalid(why));
    }
    let mut values = Vec::new();
    values.try_reserve_exact(count as usize).map_err(|_| invalid(format!("{count} bytes, which are not there")))?;
    from.by_ref().take(count).read_to_end(&mut values)?;
    if (values.len() as u64) < count {
        return Err(invalid(format!("{} of {count} values, the file is cut off", values.len())));
    }
    // Also the place where a gzip file's checksum is compared.
    match from.read(&mut [0])? {
        0 => Ok((dimensions, values)),
        _ => Err(invalid(format!("more than the {count} values that its header promises"))),
    }
}

#[cfg(test)]
mod tests;
