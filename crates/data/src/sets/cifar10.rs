//! CIFAR-10 in its official binary layout: `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`, 10,000 records each.

use std::borrow::Cow;

use super::cifar::{Layout, SHAPE};
use super::place::Place;
use super::{Context, Kind, Read, Set, names};
use crate::catalogue::{Download, Files, Form, Member, Source, Supply};
use crate::{Augment, Dataset, Result, Split};

pub(super) static SET: Set = Set {
    name: "cifar10",
    about: "CIFAR-10: photos, 32 x 32 RGB, 10 classes: 50,000 to train on, 10,000 held out",
    terms: "no explicit licence: for research and teaching; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    home: "https://www.cs.toronto.edu/~kriz/cifar.html",
    augment: Augment { pad: 2, flip: true },
    options: &["fraction", "folder"],
    supply: Supply::Download(Files {
        folder: FOLDER,
        downloads: &[Download {
            file: "cifar-10-binary.tar.gz",
            form: Form::TarGz { inside: FOLDER },
            sources: SOURCES,
            optional: false,
        }],
        members: MEMBERS,
        extras: &["batches.meta.txt", "readme.html"],
    }),
    read,
};

const CLASSES: &str = "airplane automobile bird cat deer dog frog horse ship truck";
const FOLDER: &str = "cifar-10-batches-bin";
const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: [&str; 1] = ["test_batch.bin"];
const LAYOUT: Layout = Layout { classes: &[10], label: 0, official: 10_000 };

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
    Member { name, size: Some((LAYOUT.official * LAYOUT.record()) as u64), sha256: Some(sha256) }
}

fn read(context: &Context<'_>) -> Result<Read> {
    let place = Place::fetched(SET.name, context.data_dir, FOLDER, context.options);
    let [train, test] = [LAYOUT.read(&place, &TRAIN)?, LAYOUT.read(&place, &TEST)?];
    let remarks = [train.remarks, test.remarks].concat();
    let part = |pixels, labels| Dataset::new(Kind::Cifar10.name(), SHAPE, 255, names(CLASSES), pixels, labels);
    let split = Split { train: part(train.pixels, train.labels)?, test: part(test.pixels, test.labels)? };
    Ok(Read { split, normalisation: None, remarks })
}

#[cfg(test)]
mod tests;
