//! Augmentation: pad, crop at random, flip at random.

use gatefold_tensor::Real;
use gatefold_tensor::random::{Purpose, stream};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// What is done to a training image at random. Padding has the raw value 0 (black) and comes before normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Augment {
    /// Pixels added on each side before a crop of the image's own size is drawn; 2 turns 32 x 32 into 36 x 36.
    pub pad: usize,
    /// Whether half of the images, at random, are mirrored left to right.
    pub flip: bool,
}

/// What happens to one image: where its crop begins in the padded image, and whether it is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Draw {
    top: usize,
    left: usize,
    flip: bool,
}

impl Augment {
    /// The values of image `index` in `epoch`: of that image and epoch alone, whatever else is drawn.
    pub(crate) fn draw(self, seed: u64, epoch: u64, index: usize) -> Draw {
        let mut rng = stream(seed, Purpose::Augment, epoch, index as u64);
        let last = 2 * self.pad as u32;
        let (top, left) = (rng.random_range(0..=last) as usize, rng.random_range(0..=last) as usize);
        Draw { top, left, flip: self.flip && rng.random_bool(0.5) }
    }

    /// The draw that leaves an image as it is.
    pub(crate) fn centre(self) -> Draw {
        Draw { top: self.pad, left: self.pad, flip: false }
    }

    /// Writes the crop of `image` (bytes in the order `H, W, C`) that `draw` names, normalised by `tables`, to `out` (`H, W, C`).
    pub(crate) fn write<T: Real>(self, draw: Draw, image: &[u8], [c, h, w]: [usize; 3], tables: &[T], out: &mut [T]) {
        // The compiler unrolls the loop over channels where their number is known.
        match c {
            1 => self.write_channels(draw, image, [1, h, w], tables, out),
            3 => self.write_channels(draw, image, [3, h, w], tables, out),
            _ => self.write_channels(draw, image, [c, h, w], tables, out),
        }
    }

    #[inline(always)]
    fn write_channels<T: Real>(self, draw: Draw, image: &[u8], [c, h, w]: [usize; 3], tables: &[T], out: &mut [T]) {
        let normalise = |pixel: &[u8], out: &mut [T]| {
            for ch in 0..c {
                out[ch] = tables[256 * ch + usize::from(pixel[ch])];
            }
        };
        let fill_black = |out: &mut [T]| {
            for pixel in out.chunks_exact_mut(c) {
                for ch in 0..c {
                    pixel[ch] = tables[256 * ch];
                }
            }
        };
        let (top, bottom) = overlap(draw.top, self.pad, h);
        let (left, right) = overlap(draw.left, self.pad, w);
        for (i, row) in out.chunks_exact_mut(w * c).enumerate() {
            if i < top || i >= bottom {
                fill_black(row);
                continue;
            }
            // Columns left..right of the crop show the image from column left + draw.left − pad on.
            let source =
                &image[((i + draw.top - self.pad) * w + left + draw.left - self.pad) * c..][..(right - left) * c];
            let at = if draw.flip { w - right..w - left } else { left..right };
            fill_black(&mut row[..at.start * c]);
            fill_black(&mut row[at.end * c..]);
            let (source, out) = (source.chunks_exact(c), row[at.start * c..at.end * c].chunks_exact_mut(c));
            if draw.flip {
                source.rev().zip(out).for_each(|(pixel, out)| normalise(pixel, out));
            } else {
                source.zip(out).for_each(|(pixel, out)| normalise(pixel, out));
            }
        }
    }
}

/// The positions of a crop of `size`, begun at `start` in an image padded by `pad` < `size`, that show the image and not padding.
fn overlap(start: usize, pad: usize, size: usize) -> (usize, usize) {
    (pad.saturating_sub(start), (size + pad - start).min(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition: pad, crop, flip, each as its own image.
    fn reference(augment: Augment, draw: Draw, image: &[u8], [c, h, w]: [usize; 3]) -> Vec<f64> {
        let (p, mut out) = (augment.pad, Vec::new());
        let padded = |i: usize, j: usize, ch: usize| {
            let inside = (p..p + h).contains(&i) && (p..p + w).contains(&j);
            if inside { image[((i - p) * w + j - p) * c + ch] } else { 0 }
        };
        for i in 0..h {
            for j in 0..w {
                let column = if draw.flip { w - 1 - j } else { j };
                out.extend((0..c).map(|ch| table(ch, padded(i + draw.top, column + draw.left, ch))));
            }
        }
        out
    }

    fn table(ch: usize, u: u8) -> f64 {
        f64::from(u) - 100.0 * (ch + 1) as f64
    }

    #[test]
    fn every_crop_and_flip_equals_its_definition() {
        for shape @ [c, h, w] in [[1, 8, 8], [3, 5, 7], [2, 3, 4]] {
            let image: Vec<u8> = (1..=(c * h * w) as u8).collect();
            let tables: Vec<f64> = (0..c).flat_map(|ch| (0..=255).map(move |u| table(ch, u))).collect();
            for pad in 0..h.min(w) {
                for flip in [false, true] {
                    let augment = Augment { pad, flip };
                    for (top, left) in (0..=2 * pad).flat_map(|t| (0..=2 * pad).map(move |l| (t, l))) {
                        let draw = Draw { top, left, flip };
                        let mut out = vec![f64::NAN; c * h * w];
                        augment.write(draw, &image, shape, &tables, &mut out);
                        assert_eq!(out, reference(augment, draw, &image, shape), "{augment:?} {draw:?} {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_draw_belongs_to_its_seed_epoch_and_image() {
        let augment = Augment { pad: 4, flip: true };
        // 64 draws where only one part of the name changes: each part must matter by itself.
        let by_seed = || (0..64).map(|seed| augment.draw(seed, 1, 2)).collect::<Vec<_>>();
        let by_epoch = || (0..64).map(|epoch| augment.draw(1, epoch, 2)).collect::<Vec<_>>();
        let by_image = || (0..64).map(|index| augment.draw(1, 2, index)).collect::<Vec<_>>();
        for draws in [by_seed(), by_epoch(), by_image()] {
            assert!(draws.iter().any(|&draw| draw != draws[0]), "{draws:?}");
        }
        assert_eq!((by_seed(), by_epoch(), by_image()), (by_seed(), by_epoch(), by_image()));
    }

    #[test]
    fn offsets_are_uniform_and_half_the_images_are_mirrored() {
        let (augment, images) = (Augment { pad: 2, flip: true }, 10_000);
        let draws: Vec<Draw> = (0..images).map(|i| augment.draw(7, 3, i)).collect();
        for k in 0..=4 {
            let share =
                |of: &dyn Fn(&Draw) -> usize| draws.iter().filter(|d| of(d) == k).count() as f64 / images as f64;
            assert!((share(&|d| d.top) - 0.2).abs() < 0.02 && (share(&|d| d.left) - 0.2).abs() < 0.02);
        }
        let mirrored = draws.iter().filter(|d| d.flip).count() as f64 / images as f64;
        assert!((mirrored - 0.5).abs() < 0.02, "{mirrored}");
        assert!((0..1000).all(|i| !Augment { pad: 2, flip: false }.draw(7, 3, i).flip));
    }
}
