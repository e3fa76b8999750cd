use std::fs;
use std::path::Path;

use super::*;
use crate::{ErrorKind, Loaded, Request, SetOptions, load};

fn record(coarse: u8, fine: u8, pixel: u8) -> Vec<u8> {
    [vec![coarse, fine], vec![pixel; 1024], vec![pixel + 1; 1024], vec![pixel + 2; 1024]].concat()
}

fn small_set() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(FOLDER)).unwrap();
    fs::write(
        dir.path().join(FOLDER).join("train.bin"),
        [record(19, 99, 10), record(0, 1, 20), record(3, 50, 30)].concat(),
    )
    .unwrap();
    fs::write(dir.path().join(FOLDER).join("test.bin"), record(7, 42, 40)).unwrap();
    dir
}

fn read_as(dir: &Path, labels: Option<Labels>) -> Result<Loaded> {
    let options = SetOptions { labels, ..SetOptions::default() };
    load(Kind::Cifar100, dir, Request { options, ..Request::default() })
}

#[test]
fn fine_labels_are_the_default_and_coarse_ones_an_option() {
    let dir = small_set();
    let fine = read_as(dir.path(), None).unwrap();
    assert_eq!(fine.split.train.labels(), [99, 1, 50]);
    assert_eq!((fine.split.train.classes().len(), &*fine.split.train.classes()[99]), (100, "worm"));
    assert_eq!(fine.split.train.image(1).unwrap()[..6], [20, 21, 22, 20, 21, 22]);
    let coarse = read_as(dir.path(), Some(Labels::Coarse)).unwrap();
    assert_eq!((coarse.split.train.labels(), coarse.split.test.labels()), (&[19, 0, 3][..], &[7][..]));
    assert_eq!((coarse.split.train.classes().len(), &*coarse.split.train.classes()[0]), (20, "aquatic_mammals"));
    assert_eq!(coarse.split.train.pixels(), fine.split.train.pixels());
    assert_eq!(fine.remarks.len(), 2, "a short set is remarked on: {:?}", fine.remarks);
}

#[test]
fn both_labels_are_checked_whichever_is_read() {
    for (bad, part) in
        [(record(20, 0, 0), "label 20 is none of 0..=19"), (record(0, 100, 0), "label 100 is none of 0..=99")]
    {
        let dir = small_set();
        fs::write(dir.path().join(FOLDER).join("test.bin"), [record(0, 0, 0), bad].concat()).unwrap();
        for labels in [Labels::Fine, Labels::Coarse] {
            let error = read_as(dir.path(), Some(labels)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().contains(&format!("test.bin`, record 1: {part}")), "{error}");
        }
    }
}

#[test]
fn a_truncated_file_and_a_missing_one_say_what_helps() {
    let dir = small_set();
    fs::write(dir.path().join(FOLDER).join("train.bin"), &record(0, 0, 0)[..3000]).unwrap();
    let text = read_as(dir.path(), None).unwrap_err().to_string();
    assert!(text.contains("train.bin`, record 0: 3000 bytes") && text.contains("data get cifar100"), "{text}");
    fs::remove_file(dir.path().join(FOLDER).join("train.bin")).unwrap();
    assert!(matches!(read_as(dir.path(), None).unwrap_err(), crate::Error::Missing { .. }));
}

/// The names are in the order of the labels: ten fine ones with their superclass, from the table of the set's home.
#[test]
fn the_names_are_the_official_ones() {
    let (fine, coarse) = (names(FINE), names(COARSE));
    assert_eq!((fine.len(), coarse.len()), (100, 20));
    assert!(fine.is_sorted(), "the fine labels are in the order of their names");
    assert!(coarse.is_sorted());
}

/// A part of the official files, where somebody has put it beside the project.
#[test]
fn a_part_of_the_official_files_is_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if !dir.join(FOLDER).exists() {
        println!("NOT RUN: `{}` is absent", dir.join(FOLDER).display());
        return;
    }
    let fine = read_as(&dir, None).unwrap();
    assert_eq!((fine.split.train.len(), fine.split.test.len()), (2000, 500));
    let known = [(0.5126, 0.2684), (0.4918, 0.2570), (0.4466, 0.2760)];
    for ((m, s), (mean, std)) in fine.normalisation.mean.iter().zip(&fine.normalisation.std).zip(known) {
        assert!((m - mean).abs() < 6e-5 && (s - std).abs() < 6e-5, "{:?}", fine.normalisation);
    }
    for (labels, each) in [(Labels::Fine, 20), (Labels::Coarse, 100)] {
        let train = read_as(&dir, Some(labels)).unwrap().split.train;
        for class in 0..train.classes().len() {
            assert_eq!(train.labels().iter().filter(|&&label| label == class).count(), each);
        }
    }
    // The files of the names that come with the set say the same.
    for (file, text) in [("fine_label_names.txt", FINE), ("coarse_label_names.txt", COARSE)] {
        let official = fs::read_to_string(dir.join(FOLDER).join(file)).unwrap();
        assert_eq!(names(&official), names(text));
    }
}
