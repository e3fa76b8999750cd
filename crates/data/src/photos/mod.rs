//! Image files: decoding them, choosing a part, and bringing it to the size of a network's input.

mod decode;
mod recipe;
mod resample;
mod window;

use std::path::Path;

pub(crate) use decode::{Photo, decode};
pub(crate) use recipe::Recipe;
pub use resample::Filter;
use resample::Source;

use crate::options::SetOptions;
use crate::{Error, Kind, Result};

/// The pixels (`H, W, C`) of an image file as `kind`, a set of photos, shows it in evaluation: the centre, `size` x `size`, of
/// the photo with its shorter side at size·256/224.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) and [`Error::Broken`](crate::Error::Broken) of a file that cannot be read;
/// [`Error::Invalid`](crate::Error::Invalid) of a size that the set does not take.
pub fn evaluation_input(kind: Kind, file: &Path, size: usize) -> Result<Vec<u8>> {
    let options = SetOptions { input_size: Some(size), ..SetOptions::default() };
    options.check(kind)?;
    Ok(Recipe::new(&options).evaluation(&decode(file)?))
}

/// The pixels (`H, W, C`) of all of an image file, turned upright and stretched to `[C, H, W]`, in colours or, for one channel,
/// grey. Transparency is passed over.
///
/// # Errors
/// As [`evaluation_input`]; [`Error::Invalid`](crate::Error::Invalid) of other channels and of an extent of 0.
pub fn stretched_input(file: &Path, [channels, height, width]: [usize; 3], filter: Filter) -> Result<Vec<u8>> {
    if !matches!(channels, 1 | 3) || height * width == 0 {
        let why = format!("{channels}x{height}x{width}: an image file makes 1 or 3 channels of at least one pixel");
        return Err(Error::invalid("an input", why));
    }
    let image = decode::upright(file)?;
    let (to, whole) = ((width, height), (0..width, 0..height));
    let (width, height) = (image.width() as usize, image.height() as usize);
    let source = |pixels, stride| Source { pixels, stride, width, height };
    Ok(match channels {
        1 => resample::resize::<1>(source(image.into_luma8().as_raw(), width), to, whole, filter),
        _ => resample::resize::<3>(source(image.into_rgb8().as_raw(), 3 * width), to, whole, filter),
    })
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    #[test]
    fn all_of_an_image_comes_in_the_size_and_channels_that_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.dat"); // the name says nothing
        let image = RgbImage::from_fn(40, 20, |x, _| if x < 20 { Rgb([200, 10, 0]) } else { Rgb([0, 10, 100]) });
        image.save_with_format(&file, ImageFormat::Png).unwrap();
        assert_eq!(stretched_input(&file, [3, 20, 40], Filter::Lanczos3).unwrap(), image.into_raw());
        for filter in [Filter::Lanczos3, Filter::Bilinear] {
            let small = stretched_input(&file, [3, 4, 8], filter).unwrap();
            assert_eq!(small.len(), 4 * 8 * 3);
            assert_eq!((&small[..3], &small[21..24]), (&[200, 10, 0][..], &[0, 10, 100][..]));
            assert_eq!(stretched_input(&file, [1, 4, 8], filter).unwrap().len(), 4 * 8);
        }
        for shape in [[2, 4, 8], [3, 0, 8]] {
            let error = stretched_input(&file, shape, Filter::Lanczos3).unwrap_err();
            assert!(error.to_string().contains("1 or 3 channels"), "{error}");
        }
    }

    /// A JPEG image of two colours side by side, noted as lying on its side.
    #[test]
    fn an_image_is_turned_as_its_camera_noted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        let image = RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([200, 200, 200]) } else { Rgb([20, 20, 20]) });
        image.save(&file).unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        // Behind the start of the image: APP1 with an orientation of 6, a quarter turn to the right.
        let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0];
        let exif = [b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".as_slice(), &entry, &[0; 4]].concat();
        let segment = [&[0xff, 0xe1, 0, exif.len() as u8 + 2], &exif[..]].concat();
        bytes.splice(2..2, segment);
        std::fs::write(&file, bytes).unwrap();
        let upright = stretched_input(&file, [1, 32, 16], Filter::Bilinear).unwrap();
        assert!(upright[0].abs_diff(200) < 4 && upright[15].abs_diff(200) < 4, "{upright:?}");
        assert!(upright[31 * 16].abs_diff(20) < 4, "{upright:?}");
        assert_eq!(decode(&file).unwrap().width, 32);
    }
}
