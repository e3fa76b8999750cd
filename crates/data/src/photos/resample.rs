//! Resizing, byte for byte as Pillow does it: what torchvision's transforms make of an image is what a network has learnt from.
//!
//! Each output is a sum over the input under the filter, whose support grows with the reduction (antialiasing). Weights are
//! normalised in f64 and rounded to 22 bits behind the point. What comes first, rows or columns, is rounded to bytes before
//! the other: rows, unless fewer than half as many columns disappear as rows do (Pillow 13; older ones took rows first always).

use std::collections::VecDeque;
use std::ops::Range;

/// A filter by its support and its value at a distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The triangle of Pillow's `BILINEAR`.
    Bilinear,
    /// `sinc(x)·sinc(x/3)`, Pillow's `LANCZOS`.
    Lanczos3,
}

impl Filter {
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Lanczos3 => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (std::f64::consts::PI * x).sin() / (std::f64::consts::PI * x) };
        match self {
            _ if x.abs() >= self.support() => 0.0,
            Filter::Bilinear => 1.0 - x.abs(),
            Filter::Lanczos3 => sinc(x) * sinc(x / 3.0),
        }
    }
}

/// Bits behind the point of a weight: a sum of bytes times weights stays within 32.
const BITS: u32 = 22;

/// The inputs under one output: the first one, and their weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

impl Taps {
    fn end(&self) -> usize {
        self.first + self.weights.len()
    }

    /// Of the outputs `part` of all `to` along one axis.
    fn of(from: usize, to: usize, part: Range<usize>, filter: Filter) -> Vec<Taps> {
        let scale = from as f64 / to as f64;
        let widened = scale.max(1.0);
        let support = filter.support() * widened;
        let of_output = |at: usize| {
            let centre = (at as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let weight = |x: usize| filter.at((x as f64 - centre + 0.5) * (1.0 / widened));
            let weights: Vec<f64> = (first..end).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            let rounded = |w: f64| (w / sum * f64::from(1 << BITS)).round() as i32;
            Taps { first, weights: weights.into_iter().map(rounded).collect() }
        };
        part.map(of_output).collect()
    }
}

/// Half a unit, so that a shift rounds.
const HALF: i32 = 1 << (BITS - 1);

fn byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// A row of pixels of C bytes, resized.
fn across<const C: usize>(row: &[u8], taps: &[Taps], resized: &mut [u8]) {
    let row = row.as_chunks::<C>().0;
    for (out, taps) in resized.as_chunks_mut::<C>().0.iter_mut().zip(taps) {
        let mut sums = [HALF; C];
        for (pixel, &weight) in row[taps.first..].iter().zip(&taps.weights) {
            for c in 0..C {
                sums[c] += i32::from(pixel[c]) * weight;
            }
        }
        *out = sums.map(byte);
    }
}

/// Pixels in memory: `width` in each of `height` rows, which begin `stride` bytes apart.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub pixels: &'a [u8],
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// The columns and rows `part` of what `source` is when it is resized to `to` = (width, height). A pixel has C bytes; no
/// extent is 0.
pub fn resize<const C: usize>(
    source: Source<'_>,
    to: (usize, usize),
    part: (Range<usize>, Range<usize>),
    filter: Filter,
) -> Vec<u8> {
    let Source { pixels, stride, width, height } = source;
    let columns_first = to.1 < height && 2 * width + to.1 < 2 * to.0 + height;
    let (horizontal, vertical) = (Taps::of(width, to.0, part.0, filter), Taps::of(height, to.1, part.1, filter));
    let mut resized = Vec::with_capacity(C * horizontal.len() * vertical.len());
    let mut line = vec![0; C * horizontal.len()];
    // The sums of the output rows that have begun, from the first one that is not done: they end in their order.
    let mut open: VecDeque<Vec<i32>> = VecDeque::new();
    let mut done = 0;
    let read = vertical.first().map_or(0, |taps| taps.first)..vertical.last().map_or(0, Taps::end);
    for y in read {
        let mut row = &pixels[y * stride..][..C * width];
        if !columns_first {
            across::<C>(row, &horizontal, &mut line);
            row = &line;
        }
        for (at, taps) in vertical[done..].iter().take_while(|taps| taps.first <= y).enumerate() {
            if open.len() <= at {
                open.push_back(vec![HALF; row.len()]);
            }
            if let Some(&weight) = taps.weights.get(y - taps.first) {
                open[at].iter_mut().zip(row).for_each(|(sum, &v)| *sum += i32::from(v) * weight);
            }
        }
        while vertical.get(done).is_some_and(|taps| taps.end() <= y + 1) {
            let sums = open.pop_front().expect("a row is begun before it ends");
            let bytes = sums.into_iter().map(byte);
            if columns_first {
                across::<C>(&bytes.collect::<Vec<u8>>(), &horizontal, &mut line);
                resized.extend(&line);
            } else {
                resized.extend(bytes);
            }
            done += 1;
        }
    }
    resized
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<const C: usize>(
        pixels: &[u8],
        stride: usize,
        from: (usize, usize),
        to: (usize, usize),
        filter: Filter,
    ) -> Vec<u8> {
        resize::<C>(Source { pixels, stride, width: from.0, height: from.1 }, to, (0..to.0, 0..to.1), filter)
    }

    #[test]
    fn the_same_size_is_the_same_image() {
        let pixels: Vec<u8> = (0..5 * 4 * 3).map(|i| (i * 37 % 256) as u8).collect();
        for filter in [Filter::Bilinear, Filter::Lanczos3] {
            assert_eq!(whole::<3>(&pixels, 15, (5, 4), (5, 4), filter), pixels);
        }
    }

    #[test]
    fn rows_are_read_by_their_stride_and_a_flat_image_stays_flat() {
        let mut pixels = [9; 10 * 7];
        pixels.iter_mut().step_by(10).for_each(|outside| *outside = 200);
        for to in [(1, 1), (3, 20), (40, 2), (9, 7)] {
            let resized = whole::<1>(&pixels[1..], 10, (9, 7), to, Filter::Lanczos3);
            assert_eq!(resized, vec![9; to.0 * to.1], "{to:?}");
        }
    }

    #[test]
    fn a_part_is_cut_out_of_the_whole() {
        let pixels: Vec<u8> = (0..30 * 20).map(|i| (i * i % 251) as u8).collect();
        let source = Source { pixels: &pixels, stride: 30, width: 30, height: 20 };
        for to in [(12, 9), (50, 33), (29, 5)] {
            let all = resize::<1>(source, to, (0..to.0, 0..to.1), Filter::Bilinear);
            let part = resize::<1>(source, to, (3..8, 1..4), Filter::Bilinear);
            let cut: Vec<u8> = (1..4).flat_map(|y| &all[y * to.0 + 3..][..5]).copied().collect();
            assert_eq!(part, cut, "{to:?}");
        }
    }

    #[test]
    fn halving_averages_by_the_triangle() {
        // Weights 1 3 3 1 of 8, and at the border 3 3 1 of 7.
        assert_eq!(whole::<1>(&[0, 80, 160, 240], 4, (4, 1), (2, 1), Filter::Bilinear), [57, 183]);
    }
}
