//! Image files: decoding them, choosing a part, and bringing it to the size of a network's input.

mod decode;
mod recipe;
mod window;

use std::path::Path;

pub(crate) use decode::{Photo, decode};
pub(crate) use recipe::Recipe;

use crate::options::{MAX_INPUT, SetOptions};
use crate::{Error, Result};

/// The pixels (`H, W, C`) of an image file as a set of photos shows it in evaluation: the centre, `size` x `size`, of the photo
/// with its shorter side at size·256/224.
///
/// # Errors
/// [`Error::Io`] and [`Error::Broken`] of a file that cannot be read; [`Error::Invalid`] of a size that no set has.
pub fn evaluation_input(file: &Path, size: usize) -> Result<Vec<u8>> {
    if !(1..=MAX_INPUT).contains(&size) {
        return Err(Error::invalid("input size", format!("{size} is not in 1 ..= {MAX_INPUT}")));
    }
    Recipe::new(&SetOptions { input_size: Some(size), ..SetOptions::default() }).evaluation(&decode(file)?)
}

#[cfg(test)]
mod golden;
