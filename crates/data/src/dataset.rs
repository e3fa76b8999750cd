//! A set of labelled images of one size, held as the bytes of its files.

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Labelled images of one size. A pixel is a byte `0 ..= maximum`; images lie in the order `N, H, W, C`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    name: String,
    shape: [usize; 3],
    maximum: u8,
    classes: Vec<String>,
    pixels: Vec<u8>,
    labels: Vec<usize>,
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
        if size == 0 || pixels.len() != labels.len() * size {
            let why = format!("{} bytes for {} images of shape {shape:?}", pixels.len(), labels.len());
            return Err(Error::invalid("pixels", why));
        }
        if let Some((image, label)) = labels.iter().enumerate().find(|&(_, &label)| label >= classes.len()) {
            return Err(Error::invalid(
                "labels",
                format!("label {label} of image {image} is none of {} classes", classes.len()),
            ));
        }
        // Every byte is a pixel of an 8-bit set: only the others need a look.
        if maximum < u8::MAX
            && let Some(at) = pixels.iter().position(|&p| p > maximum)
        {
            return Err(Error::invalid(
                "pixels",
                format!("value {} of image {} is above {maximum}", pixels[at], at / size),
            ));
        }
        Ok(Dataset { name: name.into(), shape, maximum, classes, pixels, labels })
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

    /// All pixels, in the order `N, H, W, C`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The pixels of image `index`, in the order `H, W, C`.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        let size: usize = self.shape.iter().product();
        &self.pixels[index * size..][..size]
    }

    /// Keeps the first `count` images.
    pub fn truncate(&mut self, count: usize) {
        let size: usize = self.shape.iter().product();
        self.labels.truncate(count);
        self.pixels.truncate(self.labels.len() * size);
    }

    /// SHA-256, in hexadecimal, of the shape, the labels and the pixels: which images a run has seen.
    pub fn checksum(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {} {}\n", self.shape, self.maximum, self.len()));
        for &label in &self.labels {
            hash.update((label as u64).to_le_bytes());
        }
        hash.update(&self.pixels);
        hex(&hash.finalize())
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
        assert_eq!((data.len(), data.image(1)), (3, &[4, 5, 6, 7][..]));
        let whole = data.checksum();
        data.truncate(2);
        assert_eq!((data.len(), data.pixels().len(), data.labels()), (2, 8, &[0, 1][..]));
        assert_ne!(data.checksum(), whole);
        data.truncate(5);
        assert_eq!(data.len(), 2);
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
            (vec![0; 7], vec![0, 1], "7 bytes for 2 images"),
            (vec![0; 8], vec![0, 2], "label 2 of image 1"),
            (vec![0, 0, 0, 0, 17, 0, 0, 0], vec![0, 1], "value 17 of image 1"),
        ] {
            let error = small(pixels, labels).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
