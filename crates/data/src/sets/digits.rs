//! The embedded digits: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998 (CC BY 4.0).
//!
//! One image a line: 64 values 0..=16, row by row, and the label. Held out is every fifth image (index mod 5 = 4).

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use flate2::read::GzDecoder;

use super::{Kind, Read, Set, names};
use crate::catalogue::Supply;
use crate::{Augment, Dataset, Error, Result, Split};

pub(super) static SET: Set = Set {
    name: "digits",
    about: "handwritten digits, 8 x 8 grey, 10 classes: 1,438 to train on, 359 held out",
    terms: "CC BY 4.0: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    home: "https://doi.org/10.24432/C50P49",
    augment: Augment { pad: 1, flip: false },
    options: &["fraction"],
    supply: Supply::Embedded { file: FILE, sha256: "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22" },
    read: |_| read(FILE),
};

static FILE: &[u8] = include_bytes!("../../../../datasets/digits/digits.csv.gz");
const MAXIMUM: u8 = 16;
const PIXELS: usize = 64;

fn read(file: &[u8]) -> Result<Read> {
    let (mut train, mut test) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (index, line) in BufReader::new(GzDecoder::new(file)).lines().enumerate() {
        let line = line.map_err(|e| broken(index, format!("the file cannot be unpacked: {e}")))?;
        let (pixels, label) = image(&line).map_err(|problem| broken(index, problem))?;
        let part = if index % 5 == 4 { &mut test } else { &mut train };
        part.0.extend(pixels);
        part.1.push(label);
    }
    let classes = || names("0 1 2 3 4 5 6 7 8 9");
    let part = |(pixels, labels)| Dataset::new(Kind::Digits.name(), [1, 8, 8], MAXIMUM, classes(), pixels, labels);
    Ok(Read { split: Split { train: part(train)?, test: part(test)? }, normalisation: None, remarks: Vec::new() })
}

/// The pixels and the label of a line.
fn image(line: &str) -> std::result::Result<([u8; PIXELS], usize), String> {
    let values: Vec<u8> = line
        .split(',')
        .map(|value| value.parse().map_err(|_| format!("`{value}` is no number 0..=255")))
        .collect::<std::result::Result<_, _>>()?;
    let Some((&label, pixels)) = values.split_last() else { return Err("the line is empty".into()) };
    let pixels = <[u8; PIXELS]>::try_from(pixels).map_err(|_| format!("{} values and not 65", values.len()))?;
    match pixels.iter().find(|&&pixel| pixel > MAXIMUM) {
        Some(pixel) => Err(format!("pixel value {pixel} is above {MAXIMUM}")),
        None if label > 9 => Err(format!("label {label} is none of 0..=9")),
        None => Ok((pixels, usize::from(label))),
    }
}

fn broken(index: usize, problem: String) -> Error {
    let remedy = "the program was built from a damaged file: build it again from a fresh copy".into();
    Error::Broken { path: PathBuf::from("digits.csv.gz (embedded)"), record: Some(index), problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;
    use std::path::Path;

    #[test]
    fn the_embedded_digits_are_whole_and_split_by_five() {
        let loaded = load(Kind::Digits, Path::new("/nowhere"), None).unwrap();
        let (train, test) = (&loaded.split.train, &loaded.split.test);
        assert_eq!((train.len(), test.len()), (1438, 359));
        let mut counts = [0; 10];
        train.labels().iter().chain(test.labels()).for_each(|&label| counts[label] += 1);
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]); // as scikit-learn counts them
        assert_eq!(train.image(0).unwrap()[..8], [0, 0, 5, 13, 9, 1, 0, 0]);
        assert_eq!((train.labels()[..5].to_vec(), test.labels()[0]), (vec![0, 1, 2, 3, 5], 4));
        assert_eq!((train.shape(), train.maximum(), train.pixels().unwrap().iter().max()), ([1, 8, 8], 16, Some(&16)));
        assert!(loaded.remarks.is_empty());
    }

    #[test]
    fn a_limit_keeps_the_first_of_both_and_the_normalisation_of_all() {
        let whole = load(Kind::Digits, Path::new("."), None).unwrap();
        let cut = load(Kind::Digits, Path::new("."), Some(7)).unwrap();
        assert_eq!((cut.split.train.len(), cut.split.test.len()), (7, 7));
        assert_eq!(cut.split.train.image(6).unwrap(), whole.split.train.image(6).unwrap());
        assert_eq!(cut.normalisation, whole.normalisation);
        // By the definition, over pixels/16 of the 1,438 training images.
        let v: Vec<f64> = whole.split.train.pixels().unwrap().iter().map(|&u| f64::from(u) / 16.0).collect();
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        let std = (v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / v.len() as f64).sqrt();
        assert!((cut.normalisation.mean[0] - mean).abs() < 1e-12 && (cut.normalisation.std[0] - std).abs() < 1e-12);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_the_record() {
        let good = "1,".repeat(64) + "3\n";
        for (line, part) in [
            ("1,".repeat(63) + "3", "64 values"),
            ("1,".repeat(63) + "17,3", "17 is above 16"),
            ("1,".repeat(64) + "10", "label 10"),
            ("1,".repeat(64) + "x", "`x`"),
            (String::new(), "``"),
        ] {
            let mut file = GzEncoder::new(Vec::new(), Compression::fast());
            writeln!(file, "{good}{line}").unwrap();
            let error = read(&file.finish().unwrap()).err().unwrap().to_string();
            assert!(error.contains("record 1") && error.contains(part), "{error}");
        }
        assert!(read(&FILE[..FILE.len() / 2]).err().unwrap().to_string().contains("cannot be unpacked"));
    }
}
