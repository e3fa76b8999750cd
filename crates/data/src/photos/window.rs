//! Which part of an image is shown: the random one of ImageNet's training recipe, as torchvision draws it.

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// Bounds of the share of the image's area.
const AREA: [f64; 2] = [0.08, 1.0];
/// Bounds of width/height.
const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Draws before the centre is taken.
const DRAWS: usize = 10;

impl Window {
    /// A part of random area and aspect at a random place of an image of `width` x `height`: `RandomResizedCrop.get_params` of
    /// torchvision. `uniform` draws from U[0, 1): an area share U(0.08, 1), an aspect whose logarithm is uniform, until such a
    /// part fits, then its place; after ten draws that do not fit, the largest centre part whose aspect is within the bounds.
    pub(crate) fn random(width: u32, height: u32, mut uniform: impl FnMut() -> f64) -> Window {
        let between = |[low, high]: [f64; 2], u: f64| low + (high - low) * u;
        let area = f64::from(width) * f64::from(height);
        for _ in 0..DRAWS {
            let target = area * between(AREA, uniform());
            let aspect = between(ASPECT.map(f64::ln), uniform()).exp();
            let (w, h) = (round((target * aspect).sqrt()), round((target / aspect).sqrt()));
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let place = |room: u32, u: f64| (f64::from(room + 1) * u) as u32;
                let top = place(height - h, uniform());
                let left = place(width - w, uniform());
                return Window { left, top, width: w, height: h };
            }
        }
        let aspect = f64::from(width) / f64::from(height);
        let (w, h) = if aspect < ASPECT[0] {
            (width, round(f64::from(width) / ASPECT[0]))
        } else if aspect > ASPECT[1] {
            (round(f64::from(height) * ASPECT[1]), height)
        } else {
            (width, height)
        };
        // An image one pixel wide has no part of such an aspect.
        let (w, h) = (w.clamp(1, width), h.clamp(1, height));
        Window { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }

    /// The centre of an image of `width` x `height`, `size` pixels square; the image is at least that large.
    pub(crate) fn centre(width: u32, height: u32, size: u32) -> Window {
        let half = |room: u32| round(f64::from(room) / 2.0);
        Window { left: half(width - size), top: half(height - size), width: size, height: size }
    }
}

/// As Python rounds: a half to the even number. Negative is 0, and too large is the largest.
fn round(x: f64) -> u32 {
    x.round_ties_even() as u32
}

#[cfg(test)]
mod tests {
    use gatefold_tensor::random::{Purpose, stream};
    use rand::RngExt;

    use super::*;

    #[test]
    fn a_random_part_lies_inside_and_keeps_its_bounds() {
        let mut rng = stream(5, Purpose::Test, 0, 0);
        for (width, height) in [(500, 375), (300, 300), (333, 1000)] {
            let (mut areas, mut whole) = (Vec::new(), 0);
            for _ in 0..2000 {
                let window = Window::random(width, height, || rng.random());
                assert!(window.left + window.width <= width && window.top + window.height <= height, "{window:?}");
                let share = f64::from(window.width * window.height) / f64::from(width * height);
                let aspect = f64::from(window.width) / f64::from(window.height);
                assert!((0.078..=1.0).contains(&share) && (0.73..=1.36).contains(&aspect), "{window:?}");
                areas.push(share);
                whole += usize::from(share > 0.95);
            }
            // Large parts fit into a long image less often.
            let mean = areas.iter().sum::<f64>() / areas.len() as f64;
            assert!((0.2..0.54).contains(&mean) && (whole > 0 || height == 1000), "{width} x {height}: {mean} {whole}");
        }
    }

    #[test]
    fn an_image_that_nothing_fits_into_shows_its_centre() {
        let mut draws = 0;
        let mut never = || {
            draws += 1;
            0.999 // nearly the whole area, nearly 4:3 wide
        };
        assert_eq!(Window::random(30, 300, &mut never), Window { left: 0, top: 130, width: 30, height: 40 });
        assert_eq!(draws, 20, "ten areas and ten aspects");
        assert_eq!(Window::random(300, 30, || 0.999), Window { left: 130, top: 0, width: 40, height: 30 });
        for (width, height) in [(1, 1), (1, 100_000), (100_000, 1), (2, 1)] {
            let window = Window::random(width, height, || 0.999);
            assert!(window.width >= 1 && window.left + window.width <= width, "{window:?}");
            assert!(window.height >= 1 && window.top + window.height <= height, "{window:?}");
        }
    }

    #[test]
    fn a_half_pixel_goes_to_the_even_place() {
        assert_eq!(Window::centre(257, 256, 224), Window { left: 16, top: 16, width: 224, height: 224 });
        assert_eq!(Window::centre(259, 256, 224).left, 18);
        assert_eq!(Window::centre(224, 224, 224).left, 0);
    }
}
