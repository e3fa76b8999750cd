//! CIFAR-10 (A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009) in its official binary layout.
//!
//! `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin` hold records of 3,073 bytes: a label 0..=9, then the red,
//! the green and the blue plane, each 32 x 32 row by row. There is no header, so the number of records follows from the
//! size of the file; the official files have 10,000 each.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use rayon::prelude::*;

use super::{Files, Kind, Read, Set, dataset};
use crate::catalogue::{Member, Source};
use crate::{Augment, Dataset, Error, Result, Split};

pub(super) static SET: Set = Set {
    name: "cifar10",
    about: "CIFAR-10: photos, 32 x 32 RGB, 10 classes: 50,000 to train on, 10,000 held out",
    terms: "no explicit licence: for research and teaching; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    home: "https://www.cs.toronto.edu/~kriz/cifar.html",
    shape: [3, 32, 32],
    classes: &["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    augment: Augment { pad: 2, flip: true },
    embedded: None,
    files: Some(Files {
        folder: FOLDER,
        archive: "cifar-10-binary.tar.gz",
        sources: SOURCES,
        members: MEMBERS,
        extras: &["batches.meta.txt", "readme.html"],
    }),
    read,
};

const FOLDER: &str = "cifar-10-batches-bin";
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];
const PLANE: usize = 32 * 32;
const RECORD: usize = 1 + 3 * PLANE;
/// Records in each official file; more are not read.
const OFFICIAL: usize = 10_000;

static SOURCES: &[Source] = &[
    Source {
        url: Cow::Borrowed("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
        size: 170_052_171,
        sha256: Cow::Borrowed("c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    },
    // Apache MXNet's copy: the same files, packed again.
    Source {
        url: Cow::Borrowed(
            "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/dataset/cifar10/cifar-10-binary.tar.gz",
        ),
        size: 169_570_669,
        sha256: Cow::Borrowed("5c42663433fe855e7227a0c588428176a867e401971f6e0be5fc37ca1b885452"),
    },
];

static MEMBERS: &[Member] = &[
    batch("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    batch("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    batch("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    batch("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    batch("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    batch("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
];

const fn batch(name: &'static str, sha256: &'static str) -> Member {
    Member { name, size: (OFFICIAL * RECORD) as u64, sha256 }
}

fn read(data_dir: &Path) -> Result<Read> {
    let mut parts: Vec<Part> = [TRAIN.as_slice(), TEST.as_slice()]
        .concat()
        .into_par_iter()
        .map(|name| read_file(data_dir, name))
        .collect::<Result<_>>()?;
    let remarks = parts.iter().filter_map(|part| part.remark.clone()).collect();
    let test = parts.pop().expect("the test file was read last");
    Ok(Read { split: Split { train: join(parts)?, test: join(vec![test])? }, remarks })
}

/// The images of one file.
struct Part {
    pixels: Vec<u8>,
    labels: Vec<usize>,
    remark: Option<String>,
}

fn join(parts: Vec<Part>) -> Result<Dataset> {
    let mut pixels = Vec::with_capacity(parts.iter().map(|part| part.pixels.len()).sum());
    let mut labels = Vec::with_capacity(pixels.capacity() / (3 * PLANE));
    for part in parts {
        pixels.extend(part.pixels);
        labels.extend(part.labels);
    }
    dataset(Kind::Cifar10, 255, pixels, labels)
}

fn read_file(data_dir: &Path, name: &'static str) -> Result<Part> {
    let path = data_dir.join(FOLDER).join(name);
    let get = format!("`gatefold data get cifar10 --data-dir {}` fetches it", data_dir.display());
    let broken = |record, problem| Error::Broken { path: path.clone(), record, problem, remedy: get.clone() };

    // Asked first: opening a pipe would wait for a writer.
    let metadata = std::fs::metadata(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound if data_dir.join(name).is_file() => Error::Missing {
            set: "cifar10",
            path: path.clone(),
            remedy: format!(
                "the data folder is the one that contains `{FOLDER}`: give the folder above `{}`",
                data_dir.display()
            ),
        },
        std::io::ErrorKind::NotFound => Error::Missing { set: "cifar10", path: path.clone(), remedy: get.clone() },
        _ => Error::io("read", &path, e),
    })?;
    if !metadata.is_file() {
        return Err(broken(None, "this is no regular file".into()));
    }
    let records = usize::try_from(metadata.len()).unwrap_or(usize::MAX) / RECORD;
    if metadata.len() == 0 || metadata.len() % RECORD as u64 != 0 {
        let problem = format!(
            "{} bytes are no whole number of records of {RECORD} bytes: it is cut off or no CIFAR-10 file",
            metadata.len()
        );
        return Err(broken(Some(records), problem));
    }
    if records > OFFICIAL {
        return Err(broken(None, format!("{} bytes, the official file has {}", metadata.len(), OFFICIAL * RECORD)));
    }

    let mut file = BufReader::with_capacity(1 << 17, File::open(&path).map_err(|e| Error::io("open", &path, e))?);
    let mut part = Part { pixels: vec![0; records * 3 * PLANE], labels: Vec::with_capacity(records), remark: None };
    let mut record = [0; RECORD];
    for (index, image) in part.pixels.chunks_exact_mut(3 * PLANE).enumerate() {
        file.read_exact(&mut record).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                broken(Some(index), format!("the file ends here, {records} records were expected"))
            }
            _ => Error::io("read", &path, e),
        })?;
        if record[0] > 9 {
            return Err(broken(Some(index), format!("label {} is none of 0..=9", record[0])));
        }
        part.labels.push(usize::from(record[0]));
        interleave(&record[1..], image);
    }
    if records < OFFICIAL {
        part.remark = Some(format!("`{}` has {records} images, the official file {OFFICIAL}", path.display()));
    }
    Ok(part)
}

/// Three planes → pixels of three channels.
fn interleave(planes: &[u8], image: &mut [u8]) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for (((pixel, r), g), b) in image.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        pixel.copy_from_slice(&[*r, *g, *b]);
    }
}

#[cfg(test)]
mod tests;
