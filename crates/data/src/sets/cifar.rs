//! The binary layout of CIFAR-10 and CIFAR-100 (A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009):
//! records of one or two label bytes and then the red, the green and the blue plane, each 32 x 32 row by row. There is no
//! header, so the number of records follows from the size of the file.

use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::place::Place;
use crate::Result;

/// Height and width of an image.
pub(super) const SHAPE: [usize; 3] = [3, 32, 32];
const PLANE: usize = 32 * 32;
const IMAGE: usize = 3 * PLANE;

/// How the records of a set look.
pub(super) struct Layout {
    /// The number of classes of each label byte.
    pub classes: &'static [u8],
    /// Which label byte is the label.
    pub label: usize,
    /// Records in each official file; more are not read.
    pub official: usize,
}

/// Images of one or more files, in record order.
pub(super) struct Part {
    /// `N, H, W, C`.
    pub pixels: Vec<u8>,
    pub labels: Vec<usize>,
    pub remarks: Vec<String>,
}

impl Layout {
    /// Bytes of a record.
    pub(super) const fn record(&self) -> usize {
        self.classes.len() + IMAGE
    }

    /// Reads files, one after the other into one block of memory.
    pub(super) fn read(&self, place: &Place<'_>, names: &[&str]) -> Result<Part> {
        let paths: Vec<PathBuf> = names.iter().map(|name| place.path(name)).collect();
        let counts: Vec<usize> = paths.iter().map(|path| self.records(place, path)).collect::<Result<_>>()?;
        let total = counts.iter().sum::<usize>();
        let mut part = Part { pixels: vec![0; total * IMAGE], labels: vec![0; total], remarks: Vec::new() };
        let (mut pixels, mut labels) = (&mut part.pixels[..], &mut part.labels[..]);
        let mut files = Vec::new();
        for (path, &count) in paths.iter().zip(&counts) {
            let (of_file, later) = pixels.split_at_mut(count * IMAGE);
            let (labels_of_file, later_labels) = labels.split_at_mut(count);
            (pixels, labels) = (later, later_labels);
            files.push((path, of_file, labels_of_file));
            if count < self.official {
                let remark = format!("`{}` has {count} images, the official file {}", path.display(), self.official);
                part.remarks.push(remark);
            }
        }
        files.into_par_iter().try_for_each(|(path, pixels, labels)| self.read_file(place, path, pixels, labels))?;
        Ok(part)
    }

    /// The number of records of a file.
    fn records(&self, place: &Place<'_>, path: &Path) -> Result<usize> {
        let (_, bytes) = place.open(path)?;
        let record = self.record();
        let records = usize::try_from(bytes).unwrap_or(usize::MAX) / record;
        if bytes == 0 || bytes % record as u64 != 0 {
            let problem = format!(
                "{bytes} bytes are no whole number of records of {record} bytes: it is cut off or no file of {}",
                place.set
            );
            return Err(place.broken(path, Some(records), problem));
        }
        if records > self.official {
            let problem = format!("{bytes} bytes, the official file has {}", self.official * record);
            return Err(place.broken(path, None, problem));
        }
        Ok(records)
    }

    fn read_file(&self, place: &Place<'_>, path: &Path, pixels: &mut [u8], labels: &mut [usize]) -> Result<()> {
        let mut file = BufReader::with_capacity(1 << 17, place.open(path)?.0);
        let (mut record, records) = (vec![0; self.record()], labels.len());
        for (index, (image, label)) in pixels.chunks_exact_mut(IMAGE).zip(labels).enumerate() {
            file.read_exact(&mut record).map_err(|e| match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    place.broken(path, Some(index), format!("the file ends here, {records} records were expected"))
                }
                _ => place.unreadable(path, e),
            })?;
            let (found, planes) = record.split_at(self.classes.len());
            if let Some((wrong, classes)) = found.iter().zip(self.classes).find(|(label, classes)| label >= classes) {
                let problem = format!("label {wrong} is none of 0..={}", classes - 1);
                return Err(place.broken(path, Some(index), problem));
            }
            *label = usize::from(found[self.label]);
            interleave(planes, image);
        }
        Ok(())
    }
}

/// Three planes → pixels of three channels.
fn interleave(planes: &[u8], image: &mut [u8]) {
    let (red, rest) = planes.split_at(PLANE);
    let (green, blue) = rest.split_at(PLANE);
    for (((pixel, r), g), b) in image.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
        pixel.copy_from_slice(&[*r, *g, *b]);
    }
}
