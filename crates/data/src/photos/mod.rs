//! Image files: decoding them, choosing a part, and bringing it to the size of a network's input.

mod decode;
mod recipe;
mod window;

pub(crate) use decode::{Photo, decode};
pub(crate) use recipe::Recipe;

#[cfg(test)]
mod golden;
