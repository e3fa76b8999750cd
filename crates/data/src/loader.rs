//! The batches of an epoch, each made on a background thread while the one before it trains; image files are decoded by all
//! threads. At most three batches exist at a time: the one in use, one that waits, and one that is being made.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use gatefold_tensor::random::{Purpose, stream};
use gatefold_tensor::{Real, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::mixup::mix;
use crate::prefetch::Prefetch;
use crate::{Augment, Dataset, Error, Mixed, Mixup, Normalisation, Result};

/// A few images and their labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<T: Real> {
    /// Normalised images, `[N, C, H, W]`.
    pub images: Tensor<T>,
    /// The class of each image.
    pub labels: Vec<usize>,
    /// What the images are mixed with, if they are.
    pub mixed: Option<Mixed>,
    /// Where each image stands in its [`Dataset`].
    pub indices: Vec<usize>,
}

/// How an epoch is cut into batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Images in a batch; the last one may be smaller and is served too.
    pub batch_size: usize,
    /// The seed of the order, of the augmentation and of mixup.
    pub seed: u64,
    /// Whether each epoch has an order of its own; file order otherwise.
    pub shuffle: bool,
    /// What is done to the images at random, if anything.
    pub augment: Option<Augment>,
    /// Whether batches are mixed with themselves.
    pub mixup: Option<Mixup>,
}

impl Options {
    /// For evaluation: file order, images as they are.
    pub fn evaluation(batch_size: usize) -> Self {
        Options { batch_size, seed: 0, shuffle: false, augment: None, mixup: None }
    }
}

/// Iterates over the batches of one epoch. Dropping it early stops the work.
pub struct Loader<T: Real> {
    batches: Prefetch<Result<Batch<T>>>,
    used: Sender<Tensor<T>>,
    left: usize,
}

impl<T: Real> Loader<T> {
    /// The batches of `epoch` (counted from 0) from batch `first` on: the same ones that a loader begun at 0 would serve there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the batch size is 0, the padding is absurd, `first` is behind the last batch, or the
    /// normalisation has another number of channels; [`Error::Io`] if no thread can be started.
    pub fn new(
        data: &Arc<Dataset>,
        normalisation: &Normalisation,
        options: &Options,
        epoch: usize,
        first: usize,
    ) -> Result<Self> {
        let count = batches_per_epoch(data.len(), options.batch_size)?;
        if first > count {
            return Err(Error::invalid("first batch", format!("{first} is behind the last of {count} batches")));
        }
        let mut maker = Maker::new(data, normalisation, options, epoch)?;
        let (used, returned) = channel();
        let work = move |i| (first + i < count).then(|| maker.make(first + i, &returned));
        let batches = Prefetch::start(work).map_err(|e| Error::io("start a loader for", Path::new(data.name()), e))?;
        Ok(Loader { batches, used, left: count - first })
    }

    /// Gives the memory of a batch back, so that a later batch is written into it instead of into fresh pages.
    /// Optional; useful once nothing else holds the images.
    pub fn recycle(&self, batch: Batch<T>) {
        // A loader that has made its last batch no longer listens: then the memory is simply freed.
        let _ = self.used.send(batch.images);
    }
}

impl<T: Real> Iterator for Loader<T> {
    type Item = Result<Batch<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.saturating_sub(1);
        self.batches.next().map_err(Error::Panicked).and_then(Option::transpose).transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

/// The number of batches of `batch_size` in an epoch of `images`, the last, smaller one included.
///
/// # Errors
/// [`Error::Invalid`] if the batch size is 0.
pub(crate) fn batches_per_epoch(images: usize, batch_size: usize) -> Result<usize> {
    if batch_size == 0 {
        return Err(Error::invalid("batch size", "a batch has at least 1 image"));
    }
    Ok(images.div_ceil(batch_size))
}

/// The order of the images in an epoch: a permutation named by (seed, epoch) alone.
fn order(images: usize, options: &Options, epoch: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    if options.shuffle {
        order.shuffle(&mut stream(options.seed, Purpose::Shuffle, epoch as u64, 0));
    }
    order
}

/// Makes any batch of one epoch.
struct Maker<T> {
    data: Arc<Dataset>,
    tables: Vec<T>,
    order: Vec<usize>,
    options: Options,
    epoch: usize,
    /// Threads that decode image files. They are not those that train: one of these may be waiting for the batch.
    decoders: Option<ThreadPool>,
}

impl<T: Real> Maker<T> {
    fn new(data: &Arc<Dataset>, normalisation: &Normalisation, options: &Options, epoch: usize) -> Result<Self> {
        let [c, h, w] = data.shape();
        let tables = normalisation.tables(c, data.maximum())?;
        if let Some(Augment { pad, .. }) = options.augment
            && pad >= h.min(w)
        {
            // Such a crop can miss the image altogether.
            return Err(Error::invalid(
                "padding",
                format!("{pad} pixels for images of {h} x {w}: at most {}", h.min(w) - 1),
            ));
        }
        let decoders = match data.pixels() {
            Some(_) => None,
            None => {
                let pool = ThreadPoolBuilder::new().num_threads(rayon::current_num_threads()).build();
                let failed = |error| Error::io("start a loader for", Path::new(data.name()), io::Error::other(error));
                Some(pool.map_err(failed)?)
            }
        };
        Ok(Maker {
            decoders,
            data: Arc::clone(data),
            tables,
            order: order(data.len(), options, epoch),
            options: options.clone(),
            epoch,
        })
    }

    fn make(&mut self, batch: usize, returned: &Receiver<Tensor<T>>) -> Result<Batch<T>> {
        let first = batch * self.options.batch_size;
        let indices = &self.order[first..self.order.len().min(first + self.options.batch_size)];
        let [c, h, w] = self.data.shape();
        let shape = [indices.len(), c, h, w];
        let recycled = returned.try_iter().find(|images| images.shape()[..] == shape);
        let mut images = recycled.unwrap_or_else(|| Tensor::zeros(shape));
        let (data, epoch) = (&self.data, self.epoch as u64);
        let make = |(&index, out): (&usize, &mut [T])| -> Result<()> {
            let image;
            let (augment, draw) = match self.options.augment {
                Some(augment) => {
                    image = data.training_image(index, self.options.seed, epoch)?;
                    (augment, augment.draw(self.options.seed, epoch, index))
                }
                None => {
                    image = data.image(index)?;
                    (Augment::default(), Augment::default().centre())
                }
            };
            augment.write(draw, &image, [c, h, w], &self.tables, out);
            Ok(())
        };
        match &self.decoders {
            // A fraction of a millisecond in all: not worth waking other threads, which train meanwhile.
            None => indices.iter().zip(images.as_mut_slice().chunks_exact_mut(c * h * w)).try_for_each(make)?,
            // Decoding takes milliseconds an image.
            Some(decoders) => decoders.install(|| {
                indices.par_iter().zip(images.as_mut_slice().par_chunks_exact_mut(c * h * w)).try_for_each(make)
            })?,
        }
        let labels: Vec<usize> = indices.iter().map(|&index| self.data.labels()[index]).collect();
        let mixed = self.options.mixup.map(|mixup| {
            let (share, partners) = mixup.draw(self.options.seed, epoch, batch, labels.len());
            mix(&mut images, share, &partners);
            Mixed { share, labels: partners.iter().map(|&partner| labels[partner]).collect() }
        });
        Ok(Batch { images, labels, mixed, indices: indices.to_vec() })
    }
}

#[cfg(test)]
mod tests;
