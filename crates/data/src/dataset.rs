//! A set of labelled images of one size: held as the bytes of its files, or as a list of image files that are decoded when
//! they are wanted.

use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::photos::{Recipe, decode};
use crate::{Error, Result};

/// Labelled images of one size. A pixel is a byte `0 ..= maximum`; an image lies in the order `H, W, C`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    name: String,
    shape: [usize; 3],
    maximum: u8,
    classes: Vec<String>,
    labels: Vec<usize>,
    images: Images,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Images {
    /// All images, one after the other; shared, so that a cut or a copy of the set takes no memory of its own.
    Held(Arc<Vec<u8>>),
    /// An image file each, in the order of the labels.
    Files { root: PathBuf, files: Vec<PathBuf>, recipe: Recipe },
}

/// The images to train on and those held out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The training images.
    pub train: Dataset,
    /// The held-out images.
    pub test: Dataset,
}

impl Dataset {
    /// A set named `name` of images `shape` = `[C, H, W]` whose `pixels` lie in the order `N, H, W, C`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the numbers of pixels and labels disagree, a label has no class, or a pixel is above `maximum`.
    pub fn new(
        name: impl Into<String>,
        shape: [usize; 3],
        maximum: u8,
        classes: Vec<String>,
        pixels: Vec<u8>,
        labels: Vec<usize>,
    ) -> Result<Self> {
        let size: usize = shape.iter().product();
        if size == 0 || maximum == 0 || pixels.len() != labels.len() * size {
            let why = format!("{} bytes 0..={maximum} for {} images of shape {shape:?}", pixels.len(), labels.len());
            return Err(Error::invalid("pixels", why));
        }
        check_labels(&labels, &classes)?;
        // Every byte is a pixel of an 8-bit set: only the others need a look.
        if maximum < u8::MAX
            && let Some(at) = pixels.iter().position(|&p| p > maximum)
        {
            return Err(Error::invalid(
                "pixels",
                format!("value {} of image {} is above {maximum}", pixels[at], at / size),
            ));
        }
        Ok(Dataset { name: name.into(), shape, maximum, classes, labels, images: Images::Held(Arc::new(pixels)) })
    }

    /// A set of image files below `root`, which `recipe` brings to one size when they are wanted.
    pub(crate) fn of_files(
        name: impl Into<String>,
        recipe: Recipe,
        classes: Vec<String>,
        root: PathBuf,
        files: Vec<PathBuf>,
        labels: Vec<usize>,
    ) -> Result<Self> {
        if files.len() != labels.len() {
            return Err(Error::invalid("labels", format!("{} for {} files", labels.len(), files.len())));
        }
        check_labels(&labels, &classes)?;
        let shape = recipe.shape();
        Ok(Dataset {
            name: name.into(),
            shape,
            maximum: 255,
            classes,
            labels,
            images: Images::Files { root, files, recipe },
        })
    }

    /// The name, as [`Kind`](crate::Kind) writes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The shape of an image, `[C, H, W]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The pixel value that stands for 1: 255 for 8-bit images, 16 for the digits.
    pub fn maximum(&self) -> u8 {
        self.maximum
    }

    /// The names of the classes, in the order of the labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The labels, in the order of the images.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// All pixels, in the order `N, H, W, C`; `None` of a set whose images are decoded when they are wanted.
    pub fn pixels(&self) -> Option<&[u8]> {
        match &self.images {
            Images::Held(pixels) => Some(&pixels[..self.len() * self.size()]),
            Images::Files { .. } => None,
        }
    }

    /// The pixels of image `index` as it is evaluated, in the order `H, W, C`.
    ///
    /// # Errors
    /// [`Error::Broken`] or [`Error::Io`], naming the file, if it is one that cannot be read.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> Result<Cow<'_, [u8]>> {
        self.prepared(index, |recipe, photo| recipe.evaluation(photo))
    }

    /// The pixels of image `index` for training with augmentation in `epoch`. Of a set of files it is the part of the image that
    /// `(seed, epoch, index)` names; a set that is held has nothing to choose here.
    pub(crate) fn training_image(&self, index: usize, seed: u64, epoch: u64) -> Result<Cow<'_, [u8]>> {
        self.prepared(index, |recipe, photo| recipe.training(photo, seed, epoch, index))
    }

    fn prepared(
        &self,
        index: usize,
        prepare: impl FnOnce(&Recipe, &crate::photos::Photo) -> Vec<u8>,
    ) -> Result<Cow<'_, [u8]>> {
        match &self.images {
            Images::Held(pixels) => Ok(Cow::Borrowed(&pixels[index * self.size()..][..self.size()])),
            Images::Files { root, files, recipe } => {
                let photo = decode(&root.join(&files[index]))?;
                Ok(Cow::Owned(prepare(recipe, &photo)))
            }
        }
    }

    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// Keeps the first `count` images.
    pub fn truncate(&mut self, count: usize) {
        self.labels.truncate(count);
        if let Images::Files { files, .. } = &mut self.images {
            files.truncate(count);
        }
    }

    /// How many classes no image belongs to.
    pub(crate) fn missing_classes(&self) -> usize {
        let mut seen = vec![false; self.classes.len()];
        self.labels.iter().for_each(|&label| seen[label] = true);
        seen.iter().filter(|&&seen| !seen).count()
    }

    /// Keeps of each class with n images the first ⌈`fraction`·n⌉, in their order.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `fraction` is above 0 and at most 1.
    pub fn keep_fraction(&mut self, fraction: f64) -> Result<()> {
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(Error::invalid("fraction", format!("{fraction} is no share above 0 and at most 1")));
        }
        let mut wanted = vec![0; self.classes.len()];
        self.labels.iter().for_each(|&label| wanted[label] += 1);
        for count in &mut wanted {
            // A share such as 0.1 is a little off in binary: 0.1 of 30 is 3 images and not 4.
            *count = (fraction * *count as f64 - 1e-9).ceil() as usize;
        }
        let kept: Vec<usize> = (0..self.len())
            .filter(|&index| {
                let left = &mut wanted[self.labels[index]];
                let keep = *left > 0;
                *left = left.saturating_sub(1);
                keep
            })
            .collect();
        self.keep(&kept);
        Ok(())
    }

    /// Keeps the images at `indices`.
    fn keep(&mut self, indices: &[usize]) {
        let size = self.size();
        match &mut self.images {
            Images::Held(pixels) if indices.len() < self.labels.len() => {
                *pixels =
                    Arc::new(indices.iter().flat_map(|&index| &pixels[index * size..][..size]).copied().collect());
            }
            Images::Held(_) => {}
            Images::Files { files, .. } => {
                *files = indices.iter().map(|&index| std::mem::take(&mut files[index])).collect();
            }
        }
        self.labels = indices.iter().map(|&index| self.labels[index]).collect();
    }

    /// SHA-256, in hexadecimal, of the shape, the labels and the pixels: which images a run has seen. Of a set of files, whose
    /// contents nobody reads twice, it is of the names and sizes of the files instead.
    pub fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {} {}\n", self.shape, self.maximum, self.len()));
        for &label in &self.labels {
            hash.update((label as u64).to_le_bytes());
        }
        match &self.images {
            Images::Held(pixels) => hash.update(&pixels[..self.len() * self.size()]),
            Images::Files { root, files, recipe } => {
                hash.update(format!("{recipe:?}\n"));
                let size = |file: &PathBuf| fs::metadata(root.join(file)).map_or(0, |metadata| metadata.len());
                let sizes: Vec<u64> = files.par_iter().map(size).collect();
                for (file, size) in files.iter().zip(sizes) {
                    hash.update(format!("{size} {}\n", file.display()));
                }
            }
        }
        hex(&hash.finalize())
    }
}

fn check_labels(labels: &[usize], classes: &[String]) -> Result<()> {
    match labels.iter().enumerate().find(|&(_, &label)| label >= classes.len()) {
        Some((image, label)) => {
            let why = format!("label {label} of image {image} is none of {} classes", classes.len());
            Err(Error::invalid("labels", why))
        }
        None => Ok(()),
    }
}

/// Bytes in hexadecimal, as checksums are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(pixels: Vec<u8>, labels: Vec<usize>) -> Result<Dataset> {
        Dataset::new("small", [2, 1, 2], 16, vec!["a".into(), "b".into()], pixels, labels)
    }

    #[test]
    fn images_are_found_and_cut() {
        let mut data = small((0..12).collect(), vec![0, 1, 1]).unwrap();
        assert_eq!((data.len(), &*data.image(1).unwrap()), (3, &[4, 5, 6, 7][..]));
        let whole = data.checksum();
        let copy = data.clone();
        data.truncate(2);
        assert_eq!((data.len(), data.pixels().unwrap().len(), data.labels()), (2, 8, &[0, 1][..]));
        assert_eq!(data.checksum(), small((0..8).collect(), vec![0, 1]).unwrap().checksum());
        data.truncate(5);
        assert_eq!(data.len(), 2);
        assert_eq!(copy.checksum(), whole, "a cut leaves other copies alone");
    }

    #[test]
    fn a_fraction_keeps_the_first_of_each_class() {
        let labels = vec![0, 1, 0, 0, 1, 0, 0, 1];
        let whole = small((0..32).map(|i| i / 4).collect(), labels).unwrap();
        for (fraction, kept) in [
            (1.0, vec![0, 1, 2, 3, 4, 5, 6, 7]),
            (0.5, vec![0, 1, 2, 3, 4]), // ⌈2.5⌉ = 3 of the five, ⌈1.5⌉ = 2 of the three
            (0.2, vec![0, 1]),
            (1e-6, vec![0, 1]), // at least one
        ] {
            let mut data = whole.clone();
            data.keep_fraction(fraction).unwrap();
            let firsts: Vec<u8> = data.pixels().unwrap().chunks(4).map(|image| image[0]).collect();
            assert_eq!(firsts, kept, "{fraction}");
            assert!(kept.iter().zip(data.labels()).all(|(&i, label)| whole.labels()[usize::from(i)] == *label));
        }
        // 0.1·30 is a little above 3 in binary.
        let mut thirty = small(vec![0; 120], vec![0; 30]).unwrap();
        thirty.keep_fraction(0.1).unwrap();
        assert_eq!(thirty.len(), 3);
        assert!(thirty.keep_fraction(0.0).is_err());
    }

    #[test]
    fn a_checksum_depends_on_every_label_and_pixel() {
        let one = small(vec![0; 8], vec![0, 1]).unwrap().checksum();
        assert_eq!(one, small(vec![0; 8], vec![0, 1]).unwrap().checksum());
        assert_ne!(one, small(vec![0; 8], vec![1, 1]).unwrap().checksum());
        assert_ne!(one, small(vec![0, 0, 0, 0, 0, 0, 0, 1], vec![0, 1]).unwrap().checksum());
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn numbers_that_disagree_are_named() {
        for (pixels, labels, part) in [
            (vec![0; 7], vec![0, 1], "for 2 images"),
            (vec![0; 8], vec![0, 2], "label 2 of image 1"),
            (vec![0, 0, 0, 0, 17, 0, 0, 0], vec![0, 1], "value 17 of image 1"),
        ] {
            let error = small(pixels, labels).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
