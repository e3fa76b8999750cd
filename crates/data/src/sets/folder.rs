//! Image files in the layout of ImageNet: `train/CLASS/…` and `val/CLASS/…`, PNG, JPEG, WebP or BMP of any size. Classes and
//! files are in the order of their names, as torchvision's `ImageFolder` has them. `imagenet` is such a folder with ImageNet's
//! mean and deviation.
//!
//! Only the names are held; an image is decoded when it is wanted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Context, Kind, Read, Set};
use crate::catalogue::{ByHand, State, Supply, Verdicts};
use crate::photos::{Recipe, decode};
use crate::{Augment, Dataset, Error, Normalisation, Result, Split};

pub(super) static FOLDER: Set = Set {
    name: "folder",
    about: "your own image files: train/CLASS/… and val/CLASS/…, PNG, JPEG, WebP or BMP of any size",
    terms: "yours",
    home: "https://pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html",
    augment: Augment { pad: 0, flip: true },
    options: OPTIONS,
    supply: Supply::ByHand(ByHand {
        how: "place the files as train/CLASS/… and val/CLASS/… in a folder and name it with --data-dir",
        state: |data_dir| state(Kind::Folder, data_dir),
        verify: |data_dir| verify(Kind::Folder, data_dir),
    }),
    read: |context| read(Kind::Folder, context),
};

pub(super) static IMAGENET: Set = Set {
    name: "imagenet",
    about: "ImageNet (ILSVRC2012): photos of any size, 1,000 classes: 1,281,167 to train on, 50,000 held out; 155 GB",
    terms: "for non-commercial research and education, on registration; cite O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015",
    home: "https://www.image-net.org/download.php",
    augment: Augment { pad: 0, flip: true },
    options: OPTIONS,
    supply: Supply::ByHand(ByHand {
        how: "it is given on registration at its home only; unpack ILSVRC2012_img_train.tar and its 1,000 inner archives into \
              imagenet/train/WNID/ below the data folder, ILSVRC2012_img_val.tar into imagenet/val/, and sort the latter into one \
              folder a class, as the script valprep.sh of the public soumith/imagenetloader.torch does",
        state: |data_dir| state(Kind::Imagenet, data_dir),
        verify: |data_dir| verify(Kind::Imagenet, data_dir),
    }),
    read: |context| read(Kind::Imagenet, context),
};

const OPTIONS: &[&str] = &["fraction", "folder", "input-size", "resize", "crop", "skip-broken"];

/// Where ImageNet is looked for below the data folder.
const IMAGENET_FOLDERS: [&str; 3] = ["imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC"];
/// What the folder of the held-out images may be called.
const HELD_OUT: [&str; 3] = ["val", "valid", "test"];
/// The endings of names of image files.
const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
/// Files that systems leave behind.
const LITTER: [&str; 2] = ["Thumbs.db", "desktop.ini"];
/// Folders inside a class, one in another: a link that leads back to itself ends here.
const MAX_DEPTH: usize = 16;
/// Remarks on single files; the rest are counted.
const MAX_REMARKS: usize = 20;

fn root(kind: Kind, context: &Context<'_>) -> PathBuf {
    let below = |name: &Path| context.data_dir.join(name);
    match (&context.options.folder, kind) {
        (Some(folder), _) => below(folder),
        (None, Kind::Imagenet) => {
            let found =
                IMAGENET_FOLDERS.iter().map(|name| below(Path::new(name))).find(|path| path.join("train").is_dir());
            found.unwrap_or_else(|| below(Path::new(IMAGENET_FOLDERS[0])))
        }
        _ => context.data_dir.to_owned(),
    }
}

fn state(kind: Kind, data_dir: &Path) -> State {
    let root = root(kind, &Context { data_dir, options: &Default::default() });
    let has_train = root.join("train").is_dir();
    match (has_train, held_out(&root).is_some()) {
        (true, true) => State::Present(root),
        (true, false) => State::Incomplete(root, vec!["val"]),
        (false, _) => State::Absent(root),
    }
}

fn held_out(root: &Path) -> Option<PathBuf> {
    HELD_OUT.iter().map(|name| root.join(name)).find(|path| path.is_dir())
}

/// Decodes every file: each part with its verdict, and each file that cannot be read.
fn verify(kind: Kind, data_dir: &Path) -> Verdicts {
    let context = Context { data_dir, options: &Default::default() };
    let listing = match Listing::of(kind, &context) {
        Ok(listing) => listing,
        Err(error) => return vec![(root(kind, &context), Err(error))],
    };
    let mut verdicts = Vec::new();
    for part in [listing.train, listing.test] {
        let broken = part.broken();
        let of_part = if broken.is_empty() { vec![(part.folder.clone(), Ok(()))] } else { Vec::new() };
        let files = part.odd.into_iter().chain(broken.into_iter().map(|(_, error)| error));
        verdicts.extend(files.map(|error| (part.folder.clone(), Err(error))).chain(of_part));
    }
    verdicts
}

fn read(kind: Kind, context: &Context<'_>) -> Result<Read> {
    let Listing { classes, mut train, mut test } = Listing::of(kind, context)?;
    let mut remarks = Vec::new();
    for part in [&mut train, &mut test] {
        part.settle(context.options.skip_broken == Some(true), &mut remarks)?;
    }
    if kind == Kind::Imagenet {
        let found = (classes.len(), train.files.len(), test.files.len());
        if found != (1000, 1_281_167, 50_000) {
            let (classes, train, test) = found;
            remarks.push(format!(
                "{classes} classes, {train} training and {test} held-out images; ImageNet has 1000, 1281167 and 50000"
            ));
        }
    }
    for (part, name) in [(&train, "training"), (&test, "held-out")] {
        let mut seen = vec![false; classes.len()];
        part.labels.iter().for_each(|&label| seen[label] = true);
        let missing = classes.iter().zip(seen).filter_map(|(class, seen)| (!seen).then_some(class.as_str()));
        let missing: Vec<&str> = missing.collect();
        if !missing.is_empty() {
            remarks.push(format!("no {name} image of {}", missing.join(", ")));
        }
    }
    let recipe = Recipe::new(context.options);
    let dataset =
        |part: Part| Dataset::of_files(kind.name(), recipe, classes.clone(), part.folder, part.files, part.labels);
    let split = Split { train: dataset(train)?, test: dataset(test)? };
    // ImageNet's recipe has fixed figures; to measure them anew takes an hour.
    let normalisation = (kind == Kind::Imagenet)
        .then(|| Normalisation { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] });
    Ok(Read { split, normalisation, remarks })
}

/// What lies in the two folders.
struct Listing {
    classes: Vec<String>,
    train: Part,
    test: Part,
}

/// The image files of one folder.
struct Part {
    folder: PathBuf,
    /// Below the folder.
    files: Vec<PathBuf>,
    labels: Vec<usize>,
    /// Files and folders that should not be there.
    odd: Vec<Error>,
}

impl Listing {
    fn of(kind: Kind, context: &Context<'_>) -> Result<Self> {
        let root = root(kind, context);
        let missing = |path: PathBuf| Error::Missing { set: kind.name(), path, remedy: how(kind).to_owned() };
        let folder = root.join("train");
        if !folder.is_dir() {
            // A part of the path that is a file, or a folder that may not be read, says so itself.
            return Err(match fs::read_dir(&folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Error::io("read", &folder, e),
                _ => missing(folder),
            });
        }
        let test_folder = held_out(&root).ok_or_else(|| missing(root.join("val")))?;

        let (folders, odd) = class_folders(&folder)?;
        let classes: Vec<String> = folders.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let mut train = Part { folder, files: Vec::new(), labels: Vec::new(), odd };
        let listed: Vec<Class> =
            folders.par_iter().map(|name| Class::list(&train.folder, name)).collect::<Result<_>>()?;
        for (label, class) in listed.into_iter().enumerate() {
            train.add(label, class);
        }

        let (test_folders, odd) = class_folders(&test_folder)?;
        let mut test = Part { folder: test_folder, files: Vec::new(), labels: Vec::new(), odd };
        for name in &test_folders {
            match folders.binary_search(name) {
                Ok(label) => {
                    let class = Class::list(&test.folder, name)?;
                    test.add(label, class);
                }
                Err(_) => {
                    test.odd.push(odd_one(&test.folder.join(name), "there is no such class to train on"));
                }
            }
        }
        for part in [&train, &test] {
            if part.files.is_empty() {
                let problem = "there are no image files in folders of classes".to_owned();
                return Err(Error::Broken {
                    path: part.folder.clone(),
                    record: None,
                    problem,
                    remedy: how(kind).to_owned(),
                });
            }
        }
        Ok(Listing { classes, train, test })
    }
}

impl Part {
    fn add(&mut self, label: usize, class: Class) {
        self.labels.resize(self.labels.len() + class.files.len(), label);
        self.files.extend(class.files);
        self.odd.extend(class.odd);
    }

    /// The files that cannot be decoded: each with its place in the list.
    fn broken(&self) -> Vec<(usize, Error)> {
        let decoded =
            |(index, file): (usize, &PathBuf)| decode(&self.folder.join(file)).err().map(|error| (index, error));
        self.files.par_iter().enumerate().filter_map(decoded).collect()
    }

    /// Odd files are an error, or they and those that cannot be decoded are left out with a remark.
    fn settle(&mut self, skip: bool, remarks: &mut Vec<String>) -> Result<()> {
        let mut odd = std::mem::take(&mut self.odd);
        if !skip {
            return if odd.is_empty() { Ok(()) } else { Err(odd.swap_remove(0)) };
        }
        let broken = self.broken();
        let is_whole: Vec<bool> = {
            let mut whole = vec![true; self.files.len()];
            broken.iter().for_each(|&(index, _)| whole[index] = false);
            whole
        };
        let mut whole = is_whole.iter();
        self.files.retain(|_| *whole.next().expect("one a file"));
        let mut whole = is_whole.iter();
        self.labels.retain(|_| *whole.next().expect("one a file"));

        let errors: Vec<Error> = odd.into_iter().chain(broken.into_iter().map(|(_, error)| error)).collect();
        for error in errors.iter().take(MAX_REMARKS) {
            remarks.push(match error {
                Error::Broken { path, problem, .. } => format!("passed over `{}`: {problem}", path.display()),
                other => format!("passed over: {other}"),
            });
        }
        if errors.len() > MAX_REMARKS {
            let more = errors.len() - MAX_REMARKS;
            remarks.push(format!("passed over {more} more files in `{}`", self.folder.display()));
        }
        if self.files.is_empty() {
            let problem = "no image file in it can be read".to_owned();
            let remedy = "replace the files".to_owned();
            return Err(Error::Broken { path: self.folder.clone(), record: None, problem, remedy });
        }
        Ok(())
    }
}

/// The files of one class, below the folder that holds the classes.
struct Class {
    files: Vec<PathBuf>,
    odd: Vec<Error>,
}

impl Class {
    fn list(folder: &Path, name: &std::ffi::OsStr) -> Result<Self> {
        let mut class = Class { files: Vec::new(), odd: Vec::new() };
        class.walk(folder, Path::new(name), 0)?;
        if class.files.is_empty() && class.odd.is_empty() {
            class.odd.push(odd_one(&folder.join(name), "the class has no images"));
        }
        Ok(class)
    }

    /// The files of a folder by name, then those of its folders.
    fn walk(&mut self, root: &Path, folder: &Path, depth: usize) -> Result<()> {
        let mut folders = Vec::new();
        for Entry { name, is_folder } in entries(&root.join(folder))? {
            let path = folder.join(&name);
            let ending = Path::new(&name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if is_folder {
                folders.push(path);
            } else if ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)) {
                self.files.push(path);
            } else {
                self.odd.push(odd_one(&root.join(path), "its name is that of no PNG, JPEG, WebP or BMP file"));
            }
        }
        for path in folders {
            if depth == MAX_DEPTH {
                self.odd.push(odd_one(&root.join(path), &format!("more than {MAX_DEPTH} folders in each other")));
            } else {
                self.walk(root, &path, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// The folders of the classes, by name, and what else lies there.
fn class_folders(folder: &Path) -> Result<(Vec<std::ffi::OsString>, Vec<Error>)> {
    let (folders, files): (Vec<Entry>, Vec<Entry>) = entries(folder)?.into_iter().partition(|entry| entry.is_folder);
    let odd = files.iter().map(|file| odd_one(&folder.join(&file.name), "it lies in no folder of a class"));
    Ok((folders.into_iter().map(|entry| entry.name).collect(), odd.collect()))
}

struct Entry {
    name: std::ffi::OsString,
    is_folder: bool,
}

/// What lies in a folder, by name; links are followed, hidden files and litter left out.
fn entries(folder: &Path) -> Result<Vec<Entry>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))? {
        let entry = entry.map_err(|e| Error::io("read", folder, e))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || LITTER.contains(&&*text) {
            continue;
        }
        let kind = entry.file_type().map_err(|e| Error::io("read", &entry.path(), e))?;
        // A file system call only where it is needed: there may be a million files.
        let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
        found.push(Entry { name, is_folder });
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn odd_one(path: &Path, problem: &str) -> Error {
    let remedy = "move it away, or pass such files over with `--set data.skip-broken=true`".to_owned();
    Error::Broken { path: path.to_owned(), record: None, problem: problem.to_owned(), remedy }
}

fn how(kind: Kind) -> &'static str {
    match &kind.set().supply {
        Supply::ByHand(by_hand) => by_hand.how,
        _ => "",
    }
}

#[cfg(test)]
mod tests;
