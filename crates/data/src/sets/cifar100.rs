//! CIFAR-100 in its official binary layout: `train.bin`, 50,000 records, and `test.bin`, 10,000. A record has two labels: the
//! superclass (coarse, 20) and the class (fine, 100).

use std::borrow::Cow;

use super::cifar::{Layout, SHAPE};
use super::place::Place;
use super::{Context, Kind, Read, Set, names};
use crate::catalogue::{Download, Files, Form, Member, Source, Supply};
use crate::options::Labels;
use crate::{Augment, Dataset, Result, Split};

pub(super) static SET: Set = Set {
    name: "cifar100",
    about: "CIFAR-100: photos, 32 x 32 RGB, 100 classes in 20 superclasses: 50,000 to train on, 10,000 held out",
    terms: "no explicit licence: for research and teaching; cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    home: "https://www.cs.toronto.edu/~kriz/cifar.html",
    augment: Augment { pad: 2, flip: true },
    options: &["fraction", "folder", "labels"],
    supply: Supply::Download(Files {
        folder: FOLDER,
        downloads: &[Download {
            file: "cifar-100-binary.tar.gz",
            form: Form::TarGz { inside: FOLDER },
            sources: SOURCES,
            optional: false,
        }],
        members: MEMBERS,
        extras: &["fine_label_names.txt", "coarse_label_names.txt"],
    }),
    read,
};

const FOLDER: &str = "cifar-100-binary";
const OFFICIAL: [usize; 2] = [50_000, 10_000];

static SOURCES: &[Source] = &[Source {
    url: Cow::Borrowed("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"),
    size: 168_513_733,
    sha256: Cow::Borrowed("58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),
}];

static MEMBERS: &[Member] = &[
    Member {
        name: "train.bin",
        size: Some((OFFICIAL[0] * layout(Labels::Fine, 0).record()) as u64),
        sha256: Some("f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
    },
    Member {
        name: "test.bin",
        size: Some((OFFICIAL[1] * layout(Labels::Fine, 0).record()) as u64),
        sha256: Some("d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
    },
];

const fn layout(labels: Labels, official: usize) -> Layout {
    let label = match labels {
        Labels::Coarse => 0,
        Labels::Fine => 1,
    };
    Layout { classes: &[20, 100], label, official }
}

fn read(context: &Context<'_>) -> Result<Read> {
    let place = Place::fetched(SET.name, context.data_dir, FOLDER, context.options);
    let labels = context.options.labels.unwrap_or_default();
    let train = layout(labels, OFFICIAL[0]).read(&place, &["train.bin"])?;
    let test = layout(labels, OFFICIAL[1]).read(&place, &["test.bin"])?;
    let remarks = [train.remarks, test.remarks].concat();
    let classes = match labels {
        Labels::Fine => FINE,
        Labels::Coarse => COARSE,
    };
    let part = |pixels, labels| Dataset::new(Kind::Cifar100.name(), SHAPE, 255, names(classes), pixels, labels);
    let split = Split { train: part(train.pixels, train.labels)?, test: part(test.pixels, test.labels)? };
    Ok(Read { split, normalisation: None, remarks })
}

const FINE: &str = "\
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle \
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant \
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree \
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate \
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider \
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle \
    wardrobe whale willow_tree wolf woman worm";

const COARSE: &str = "\
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture \
    insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores \
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2";

#[cfg(test)]
mod tests;
