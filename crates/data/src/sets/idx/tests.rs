use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::{EmnistSplit, ErrorKind, Loaded, Request, SetOptions, load};

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dimensions.len() as u8];
    file.extend(dimensions.iter().flat_map(|d| d.to_be_bytes()));
    file.extend(values);
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Images of 2 x 3 whose bytes count up.
fn images(count: u32) -> Vec<u8> {
    idx(&[count, 2, 3], &(0..6 * count as u8).collect::<Vec<_>>())
}

fn labels(labels: &[u8]) -> Vec<u8> {
    idx(&[labels.len() as u32], labels)
}

/// A folder with four good files.
fn set() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("train-images-idx3-ubyte", images(3)),
        ("train-labels-idx1-ubyte", labels(&[0, 2, 1])),
        ("t10k-images-idx3-ubyte", images(2)),
        ("t10k-labels-idx1-ubyte", labels(&[3, 0])),
    ] {
        fs::write(dir.path().join(name), file).unwrap();
    }
    dir
}

fn read_set(dir: &Path) -> Result<Loaded> {
    load(Kind::Idx, dir, None)
}

#[test]
fn four_files_are_a_set_and_its_classes_are_counted() {
    let Loaded { split, .. } = read_set(set().path()).unwrap();
    assert_eq!((split.train.shape(), split.train.len(), split.test.len()), ([1, 2, 3], 3, 2));
    assert_eq!((split.train.labels(), split.test.labels()), (&[0, 2, 1][..], &[3, 0][..]));
    assert_eq!(split.train.classes(), ["0", "1", "2", "3"]);
    assert_eq!(*split.train.image(2).unwrap(), [12, 13, 14, 15, 16, 17]);
}

#[test]
fn gzipped_files_and_other_spellings_are_found() {
    let dir = set();
    let rename = |from: &str, to: &str, pack: bool| {
        let file = fs::read(dir.path().join(from)).unwrap();
        fs::remove_file(dir.path().join(from)).unwrap();
        fs::write(dir.path().join(to), if pack { gzip(&file) } else { file }).unwrap();
    };
    let whole = read_set(dir.path()).unwrap();
    rename("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", true);
    rename("train-labels-idx1-ubyte", "train-labels.idx1-ubyte", false);
    rename("t10k-images-idx3-ubyte", "test-images-idx3-ubyte.gz", true);
    assert_eq!(read_set(dir.path()).unwrap(), whole);
}

#[test]
fn a_missing_file_is_named_with_what_helps() {
    let dir = set();
    fs::remove_file(dir.path().join("t10k-labels-idx1-ubyte")).unwrap();
    let error = read_set(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }), "{error}");
    assert!(
        error.to_string().contains("t10k-labels-idx1-ubyte") && error.to_string().contains("--data-dir"),
        "{error}"
    );
    let error = load(Kind::Mnist, dir.path(), None).unwrap_err().to_string();
    assert!(
        error.contains("MNIST/raw/train-images-idx3-ubyte") && error.contains("gatefold data get mnist"),
        "{error}"
    );
}

#[test]
fn what_is_wrong_in_a_file_is_said() {
    let mut other_type = images(3);
    other_type[2] = 13; // f32
    let cases = [
        ("train-images-idx3-ubyte", other_type, "it begins with [0, 0, 13, 3]"),
        ("train-images-idx3-ubyte", labels(&[1, 2]), "it begins with [0, 0, 8, 1]"),
        ("train-images-idx3-ubyte", idx(&[3, 2, 3], &[0; 17]), "17 of 18 values"),
        ("train-images-idx3-ubyte", idx(&[3, 2, 3], &[0; 19]), "more than the 18 values"),
        ("train-images-idx3-ubyte", idx(&[0, 2, 3], &[]), "0 images"),
        ("train-images-idx3-ubyte", idx(&[3, 0, 3], &[]), "0 x 3 pixels"),
        ("train-images-idx3-ubyte", idx(&[u32::MAX, u32::MAX, u32::MAX], &[0; 40]), "at most"),
        ("train-images-idx3-ubyte", idx(&[60_000, 28, 28], &[0; 400]), "values are promised"),
        ("train-images-idx3-ubyte", vec![0, 0, 8], "cut off"),
        ("train-images-idx3-ubyte", vec![], "cut off"),
        ("train-labels-idx1-ubyte", labels(&[0, 1]), "2 labels for 3 images"),
        ("t10k-images-idx3-ubyte", idx(&[2, 3, 3], &[0; 18]), "images of [3, 3] pixels, those to train on have [2, 3]"),
    ];
    for (name, file, part) in cases {
        for pack in [false, true] {
            let dir = set();
            fs::remove_file(dir.path().join(name)).unwrap();
            let (name, file) = if pack { (format!("{name}.gz"), gzip(&file)) } else { (name.to_owned(), file.clone()) };
            fs::write(dir.path().join(&name), file).unwrap();
            let error = read_set(dir.path()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            let text = error.to_string();
            // A gzip file of a few bytes may hold more than its own size.
            let expected = text.contains(part) || (pack && text.contains("cut off"));
            assert!(text.contains(&name) && expected, "expected `{part}`: {text}");
        }
    }
}

#[test]
fn a_damaged_gzip_file_is_an_error() {
    let dir = set();
    fs::remove_file(dir.path().join("train-images-idx3-ubyte")).unwrap();
    let whole = gzip(&images(3));
    for length in 0..whole.len() {
        fs::write(dir.path().join("train-images-idx3-ubyte.gz"), &whole[..length]).unwrap();
        assert_eq!(read_set(dir.path()).unwrap_err().kind(), ErrorKind::Data, "cut at {length}");
    }
    let mut wrong_sum = whole.clone();
    let at = wrong_sum.len() - 8; // its CRC
    wrong_sum[at] ^= 1;
    fs::write(dir.path().join("train-images-idx3-ubyte.gz"), wrong_sum).unwrap();
    assert_eq!(read_set(dir.path()).unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn a_label_out_of_range_is_named_with_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("MNIST/raw");
    fs::create_dir_all(&raw).unwrap();
    let source = set();
    for entry in fs::read_dir(source.path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), raw.join(entry.file_name())).unwrap();
    }
    load(Kind::Mnist, dir.path(), None).unwrap();
    fs::write(raw.join("train-labels-idx1-ubyte"), labels(&[0, 10, 1])).unwrap();
    let error = load(Kind::Mnist, dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("train-labels-idx1-ubyte`, record 1: label 10 is none of 0..=9"), "{error}");
}

#[test]
fn emnist_stands_upright_and_its_letters_begin_at_one() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("EMNIST/raw");
    fs::create_dir_all(&raw).unwrap();
    for (part, of_labels) in [("train", [1, 26]), ("test", [5, 2])] {
        let square = idx(&[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        fs::write(raw.join(format!("emnist-letters-{part}-images-idx3-ubyte.gz")), gzip(&square)).unwrap();
        fs::write(raw.join(format!("emnist-letters-{part}-labels-idx1-ubyte.gz")), gzip(&labels(&of_labels))).unwrap();
    }
    let letters = |dir: &Path| {
        let options = SetOptions { split: Some(EmnistSplit::Letters), ..SetOptions::default() };
        load(Kind::Emnist, dir, Request { options, ..Request::default() })
    };
    let Loaded { split, .. } = letters(dir.path()).unwrap();
    assert_eq!((split.train.labels(), split.train.classes().len()), (&[0, 25][..], 26));
    assert_eq!(*split.train.image(1).unwrap(), [5, 7, 6, 8]);
    let zero = raw.join("emnist-letters-test-labels-idx1-ubyte.gz");
    fs::write(zero, gzip(&labels(&[1, 0]))).unwrap();
    assert!(letters(dir.path()).unwrap_err().to_string().contains("label 0 is none of 1..=26"));
    // The balanced split is the default.
    let error = load(Kind::Emnist, dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("emnist-balanced-train-images-idx3-ubyte"), "{error}");
}
