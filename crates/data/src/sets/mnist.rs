//! MNIST (LeCun, Cortes, Burges), Fashion-MNIST (Xiao, Rasul, Vollgraf 2017) and EMNIST (Cohen et al. 2017): grey images of
//! 28 x 28 in IDX files, in the folders that torchvision uses, `MNIST/raw`, `FashionMNIST/raw` and `EMNIST/raw`.

use std::borrow::Cow;

use super::idx::{Layout, NAMES, Names};
use super::place::Place;
use super::{Context, Kind, Read, Set, names};
use crate::catalogue::{Download, Files, Form, Member, Source, Supply};
use crate::options::EmnistSplit;
use crate::{Augment, Result};

pub(super) static MNIST: Set = Set {
    name: "mnist",
    about: "MNIST: handwritten digits, 28 x 28 grey, 10 classes: 60,000 to train on, 10,000 held out",
    terms: "CC BY-SA 3.0: Y. LeCun, C. Cortes, C. Burges",
    home: "https://yann.lecun.com/exdb/mnist/",
    augment: Augment { pad: 2, flip: false },
    options: &["fraction", "folder"],
    supply: Supply::Download(Files {
        folder: MNIST_FOLDER,
        downloads: &[
            gzipped("train-images-idx3-ubyte.gz", &MNIST_SOURCES[0]),
            gzipped("train-labels-idx1-ubyte.gz", &MNIST_SOURCES[1]),
            gzipped("t10k-images-idx3-ubyte.gz", &MNIST_SOURCES[2]),
            gzipped("t10k-labels-idx1-ubyte.gz", &MNIST_SOURCES[3]),
        ],
        members: &[],
        extras: &[],
    }),
    read: |context| {
        let place = Place::fetched(MNIST.name, context.data_dir, MNIST_FOLDER, context.options);
        let classes = Some(names("0 1 2 3 4 5 6 7 8 9"));
        Layout { kind: Kind::Mnist, names: NAMES, classes, first_label: 0, transposed: false }.read(&place)
    },
};

pub(super) static FASHION: Set = Set {
    name: "fashion-mnist",
    about: "Fashion-MNIST: clothes, 28 x 28 grey, 10 classes: 60,000 to train on, 10,000 held out",
    terms: "MIT: Zalando SE; cite H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017",
    home: "https://github.com/zalandoresearch/fashion-mnist",
    augment: Augment { pad: 2, flip: true },
    options: &["fraction", "folder"],
    supply: Supply::Download(Files {
        folder: FASHION_FOLDER,
        downloads: &[
            gzipped("train-images-idx3-ubyte.gz", &FASHION_SOURCES[0]),
            gzipped("train-labels-idx1-ubyte.gz", &FASHION_SOURCES[1]),
            gzipped("t10k-images-idx3-ubyte.gz", &FASHION_SOURCES[2]),
            gzipped("t10k-labels-idx1-ubyte.gz", &FASHION_SOURCES[3]),
        ],
        members: &[],
        extras: &[],
    }),
    read: |context| {
        let place = Place::fetched(FASHION.name, context.data_dir, FASHION_FOLDER, context.options);
        let classes = Some(names("t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot"));
        Layout { kind: Kind::FashionMnist, names: NAMES, classes, first_label: 0, transposed: false }.read(&place)
    },
};

pub(super) static EMNIST: Set = Set {
    name: "emnist",
    about: "EMNIST: handwritten letters and digits, 28 x 28 grey; balanced: 47 classes, 112,800 to train on, 18,800 held out",
    terms: "NIST Special Database 19, public domain; cite G. Cohen, S. Afshar, J. Tapson, A. van Schaik, EMNIST, 2017",
    home: "https://www.nist.gov/itl/products-and-services/emnist-dataset",
    augment: Augment { pad: 2, flip: false },
    options: &["fraction", "folder", "split"],
    supply: Supply::Download(Files {
        folder: EMNIST_FOLDER,
        downloads: &[Download {
            file: "gzip.zip",
            form: Form::Zip { inside: "gzip" },
            sources: EMNIST_SOURCES,
            optional: false,
        }],
        members: EMNIST_MEMBERS,
        extras: &[],
    }),
    read: read_emnist,
};

const MNIST_FOLDER: &str = "MNIST/raw";
const FASHION_FOLDER: &str = "FashionMNIST/raw";
const EMNIST_FOLDER: &str = "EMNIST/raw";

const fn gzipped(file: &'static str, sources: &'static [Source]) -> Download {
    Download { file, form: Form::Plain { magic: &[0x1f, 0x8b] }, sources, optional: false }
}

/// A source for each of these addresses.
macro_rules! sources {
    ($size:literal, $sha256:literal, $($url:literal),+) => {
        [$(Source { url: Cow::Borrowed($url), size: $size, sha256: Cow::Borrowed($sha256) }),+]
    };
}

// The original server answers only now and then; these two mirrors are those of torchvision and TensorFlow Datasets.
static MNIST_SOURCES: [[Source; 2]; 4] = [
    sources!(
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz"
    ),
    sources!(
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-labels-idx1-ubyte.gz"
    ),
    sources!(
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-images-idx3-ubyte.gz"
    ),
    sources!(
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz"
    ),
];

static FASHION_SOURCES: [[Source; 2]; 4] = [
    sources!(
        26_421_880,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/train-images-idx3-ubyte.gz"
    ),
    sources!(
        29_515,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/train-labels-idx1-ubyte.gz"
    ),
    sources!(
        4_422_102,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/t10k-images-idx3-ubyte.gz"
    ),
    sources!(
        5_148,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/t10k-labels-idx1-ubyte.gz"
    ),
];

static EMNIST_SOURCES: &[Source] = &sources!(
    561_753_746,
    "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
    "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip"
);

/// Four files of each split. Nobody publishes their checksums: those of the archive's files are kept when it is unpacked.
macro_rules! members {
    ($($split:literal),+) => {
        &[$(
            member(concat!("emnist-", $split, "-train-images-idx3-ubyte.gz")),
            member(concat!("emnist-", $split, "-train-labels-idx1-ubyte.gz")),
            member(concat!("emnist-", $split, "-test-images-idx3-ubyte.gz")),
            member(concat!("emnist-", $split, "-test-labels-idx1-ubyte.gz")),
        )+]
    };
}

static EMNIST_MEMBERS: &[Member] = members!("balanced", "byclass", "bymerge", "letters", "digits", "mnist");

const fn member(name: &'static str) -> Member {
    Member { name, size: None, sha256: None }
}

const DIGITS: &str = "0 1 2 3 4 5 6 7 8 9";
const CAPITALS: &str = "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z";
const SMALL: &str = "a b c d e f g h i j k l m n o p q r s t u v w x y z";
/// The small letters that do not look like their capital.
const DIFFERENT: &str = "a b d e f g h n q r t";

fn read_emnist(context: &Context<'_>) -> Result<Read> {
    let place = Place::fetched(EMNIST.name, context.data_dir, EMNIST_FOLDER, context.options);
    let split = context.options.split.unwrap_or_default();
    let (name, classes, first_label) = match split {
        EmnistSplit::Balanced => ("balanced", format!("{DIGITS} {CAPITALS} {DIFFERENT}"), 0),
        EmnistSplit::ByClass => ("byclass", format!("{DIGITS} {CAPITALS} {SMALL}"), 0),
        EmnistSplit::ByMerge => ("bymerge", format!("{DIGITS} {CAPITALS} {DIFFERENT}"), 0),
        EmnistSplit::Letters => ("letters", CAPITALS.to_owned(), 1),
        EmnistSplit::Digits => ("digits", DIGITS.to_owned(), 0),
        EmnistSplit::Mnist => ("mnist", DIGITS.to_owned(), 0),
    };
    let file = |part: &str, what: &str| format!("emnist-{name}-{part}-{what}-ubyte");
    let train = [file("train", "images-idx3"), file("train", "labels-idx1")];
    let test = [file("test", "images-idx3"), file("test", "labels-idx1")];
    let names = Names { train: [&train[0], &train[1]], test: [&test[0], &test[1]] };
    // EMNIST keeps its images column by column: here they stand upright.
    Layout { kind: Kind::Emnist, names, classes: Some(self::names(&classes)), first_label, transposed: true }
        .read(&place)
}
