//! How an image file of any size becomes an input: ImageNet's recipe, whose reference is the ImageNet example of PyTorch with
//! torchvision's transforms on Pillow images (bilinear, with antialiasing).
//!
//! ```text
//! training    a random part (Window::random), resized to S x S; mirrored with probability 1/2 (see Augment)
//! evaluation  the shorter side resized to S·256/224, the centre S x S cut out
//! ```

use gatefold_tensor::random::{Purpose, stream};
use rand::RngExt;

use super::decode::Photo;
use super::resample::{self, Filter, Source};
use super::window::Window;
use crate::options::{Crop, Resize, SetOptions};

/// The size of ImageNet's networks, and what an image is resized to for them.
const USUAL: [u32; 2] = [224, 256];

/// The second stream of an image's augmentation; the first one, 0, draws padding and mirroring.
const WINDOW: u64 = 1;

/// How an image of any size becomes one of `size` x `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipe {
    size: u32,
    resize: Resize,
    crop: Crop,
}

impl Recipe {
    /// The recipe that the options ask for; the input size is within its bounds.
    pub(crate) fn new(options: &SetOptions) -> Self {
        let size = options.input_size.map_or(USUAL[0], |size| size as u32);
        Recipe { size, resize: options.resize.unwrap_or_default(), crop: options.crop.unwrap_or_default() }
    }

    /// The shape of an input, `[C, H, W]`.
    pub(crate) fn shape(&self) -> [usize; 3] {
        [3, self.size as usize, self.size as usize]
    }

    /// The pixels (`H, W, C`) as they are evaluated.
    pub(crate) fn evaluation(&self, photo: &Photo) -> Vec<u8> {
        let Photo { width, height, .. } = *photo;
        let side = (f64::from(self.size) * f64::from(USUAL[1]) / f64::from(USUAL[0])).round() as u32;
        // The longer side is rounded down, as torchvision does; a strip so long that it cannot be counted is squeezed.
        let longer = |shorter: u32, longer: u32| {
            let longer = u64::from(side) * u64::from(longer) / u64::from(shorter);
            u32::try_from(longer).unwrap_or(u32::MAX)
        };
        let to = match self.resize {
            Resize::Square => (side, side),
            Resize::Shorter if width <= height => (side, longer(width, height)),
            Resize::Shorter => (longer(height, width), side),
        };
        resize(photo, Window { left: 0, top: 0, width, height }, to, Window::centre(to.0, to.1, self.size))
    }

    /// The pixels (`H, W, C`) for training, of the part that `(seed, epoch, index)` names.
    pub(crate) fn training(&self, photo: &Photo, seed: u64, epoch: u64, index: usize) -> Vec<u8> {
        match self.crop {
            Crop::Centre => self.evaluation(photo),
            Crop::Resized => {
                let mut rng = stream(seed, Purpose::Augment, epoch, index as u64);
                rng.set_stream(WINDOW);
                let window = Window::random(photo.width, photo.height, || rng.random());
                self.part(photo, window)
            }
        }
    }

    /// A part of the image, resized to the input.
    pub(crate) fn part(&self, photo: &Photo, window: Window) -> Vec<u8> {
        let (size, whole) = (self.size, Window::centre(self.size, self.size, self.size));
        resize(photo, window, (size, size), whole)
    }
}

/// A part of the image, resized by the bilinear filter to `to` = (width, height), and of that what is shown.
fn resize(photo: &Photo, part: Window, to: (u32, u32), shown: Window) -> Vec<u8> {
    let stride = 3 * photo.width as usize;
    let pixels = &photo.pixels[part.top as usize * stride + 3 * part.left as usize..];
    let source = Source { pixels, stride, width: part.width as usize, height: part.height as usize };
    let range = |start: u32, len: u32| start as usize..start as usize + len as usize;
    let shown = (range(shown.left, shown.width), range(shown.top, shown.height));
    resample::resize::<3>(source, (to.0 as usize, to.1 as usize), shown, Filter::Bilinear)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Photo {
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 77])).collect();
        Photo { width, height, pixels }
    }

    fn recipe(size: usize) -> Recipe {
        Recipe::new(&SetOptions { input_size: Some(size), ..SetOptions::default() })
    }

    #[test]
    fn an_image_of_the_resized_size_is_only_cut() {
        let photo = gradient(100, 64); // 64 is 56·256/224
        let input = recipe(56).evaluation(&photo);
        assert_eq!(input.len(), 3 * 56 * 56);
        assert_eq!(input[..6], [22, 4, 77, 23, 4, 77]);
        assert_eq!(input[3 * 56 * 56 - 3..], [77, 59, 77]);
    }

    #[test]
    fn any_size_becomes_the_input_size() {
        for (width, height) in [(1, 1), (1, 50), (50, 1), (7, 300), (301, 200), (224, 224), (1, 40_000), (40_000, 1)] {
            let photo = gradient(width, height);
            for resize in [Resize::Shorter, Resize::Square] {
                let recipe = Recipe { resize, ..recipe(32) };
                assert_eq!(recipe.evaluation(&photo).len(), 3 * 32 * 32, "{width} x {height}");
                assert_eq!(recipe.training(&photo, 1, 2, 3).len(), 3 * 32 * 32, "{width} x {height}");
            }
        }
    }

    #[test]
    fn a_plain_image_stays_plain() {
        let photo = Photo { width: 90, height: 70, pixels: [200, 3, 255].repeat(90 * 70) };
        for input in [recipe(32).evaluation(&photo), recipe(32).training(&photo, 0, 0, 0)] {
            assert!(input.chunks(3).all(|pixel| pixel == [200, 3, 255]));
        }
    }

    #[test]
    fn squeezing_shows_all_of_an_image_at_each_side() {
        let photo = gradient(250, 50);
        let square = Recipe { resize: Resize::Square, ..recipe(224) }.evaluation(&photo);
        let shorter = recipe(224).evaluation(&photo);
        let columns = |input: &[u8]| (input[0], input[3 * 223]);
        // The centre 224 of 256 columns that show 250.
        assert!(
            columns(&square).0.abs_diff(15) <= 1 && columns(&square).1.abs_diff(234) <= 1,
            "{:?}",
            columns(&square)
        );
        assert!(columns(&shorter).0 > 100 && columns(&shorter).1 < 150, "{:?}", columns(&shorter));
    }

    #[test]
    fn the_part_shown_belongs_to_seed_epoch_and_image() {
        let (photo, recipe) = (gradient(200, 150), recipe(24));
        let shown = |seed, epoch, index| recipe.training(&photo, seed, epoch, index);
        assert_eq!(shown(1, 2, 3), shown(1, 2, 3));
        assert!(
            shown(1, 2, 3) != shown(2, 2, 3) && shown(1, 2, 3) != shown(1, 3, 3) && shown(1, 2, 3) != shown(1, 2, 4)
        );
        let centre = Recipe { crop: Crop::Centre, ..recipe };
        assert_eq!(centre.training(&photo, 1, 2, 3), centre.evaluation(&photo));
    }
}
