//! Image data sets: reading them, normalising and augmenting them, and serving them in batches.
//!
//! A small set is held once in memory, as the bytes of its files, in the order `N, H, W, C`; of image files only the names are
//! held, and they are decoded when they are wanted. [`Loader`] makes each batch on a background thread while the current one
//! trains. Every random choice is named by (seed, purpose, epoch,
//! image), so the batches are the same whatever the number of threads and after an interruption.
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use gatefold_data::{Kind, Loader, Options, load};
//!
//! let digits = load(Kind::Digits, Path::new("unused by an embedded set"), None)?;
//! let options = Options { batch_size: 64, seed: 0, shuffle: true, augment: Some(Kind::Digits.augment()), mixup: None };
//! let train = Arc::new(digits.split.train);
//! for batch in Loader::<f32>::new(&train, &digits.normalisation, &options, 0, 0)? {
//!     let batch = batch?;
//!     assert_eq!(batch.images.shape()[1..], [1, 8, 8]);
//! }
//! # Ok::<(), gatefold_data::Error>(())
//! ```

mod augment;
pub mod catalogue;
mod dataset;
mod error;
mod loader;
mod mixup;
mod normalisation;
mod options;
mod photos;
mod prefetch;
mod sets;

pub use augment::Augment;
pub use dataset::{Dataset, Split};
pub use error::{Error, ErrorKind, Result};
pub use loader::{Batch, Loader, Options};
pub use mixup::{Mixed, Mixup};
pub use normalisation::Normalisation;
pub use options::{Crop, EmnistSplit, Labels, MAX_INPUT, Request, Resize, SetOptions};
pub use photos::{Filter, evaluation_input, stretched_input};
pub use sets::{Kind, Loaded, load};
