//! Image files: decoding them, choosing a part, and bringing it to the size of a network's input.

mod decode;
mod recipe;
mod window;

use std::path::Path;

pub(crate) use decode::{Photo, decode};
pub(crate) use recipe::Recipe;

use crate::options::SetOptions;
use crate::{Kind, Result};

/// The pixels (`H, W, C`) of an image file as `kind`, a set of photos, shows it in evaluation: the centre, `size` x `size`, of
/// the photo with its shorter side at size·256/224.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) and [`Error::Broken`](crate::Error::Broken) of a file that cannot be read;
/// [`Error::Invalid`](crate::Error::Invalid) of a size that the set does not take.
pub fn evaluation_input(kind: Kind, file: &Path, size: usize) -> Result<Vec<u8>> {
    let options = SetOptions { input_size: Some(size), ..SetOptions::default() };
    options.check(kind)?;
    Recipe::new(&options).evaluation(&decode(file)?)
}

#[cfg(test)]
mod golden;
