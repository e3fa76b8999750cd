//! The steps of a plan.

use super::Map;
use super::memory::View;
use crate::Real;
use crate::kernels::conv::{Generated, PerSample, Prepared};
use crate::kernels::pending::Rectifier;
use crate::kernels::pool::{self, Window};
use crate::kernels::{activation, softmax};
use crate::simd::{Kernel, Vector, dispatch};

/// A step: it makes `y` of the maps before it. All maps lie channels last.
#[derive(Debug)]
pub(super) enum Step<T: Real> {
    /// A convolution.
    Conv { conv: Prepared<T>, x: Map, y: Map },
    /// A convolution with kernels for each image.
    GeneratedConv { conv: Generated<T>, x: Map, a: Map, scratch: Map, y: Map },
    /// A convolution with the kernels of each image.
    SampleConv { conv: PerSample<T>, x: Map, w: Map, scratch: Map, y: Map },
    /// The mean of each channel.
    Mean { x: Map, y: Map },
    /// The maximum of each window.
    MaxPool { window: Window, x: Map, y: Map },
    /// The sigmoid.
    Sigmoid { x: Map, y: Map },
    /// The softmax of each image's values.
    Softmax { tau: T, x: Map, y: Map },
    /// Channels times factors.
    Scale { x: Map, a: Map, y: Map },
    /// A sum, rectified.
    Add { x: Map, with: Map, rectifier: Rectifier, y: Map },
    /// Channels of other maps, one after the other.
    Gather { channels: Vec<(Map, usize)>, y: Map },
}

impl<T: Real> Step<T> {
    /// The maps that it reads and writes.
    pub fn maps(&self) -> Vec<Map> {
        match self {
            Step::Conv { x, y, .. }
            | Step::Mean { x, y }
            | Step::MaxPool { x, y, .. }
            | Step::Sigmoid { x, y }
            | Step::Softmax { x, y, .. } => vec![*x, *y],
            Step::GeneratedConv { x, a, scratch, y, .. } => vec![*x, *a, *scratch, *y],
            Step::SampleConv { x, w, scratch, y, .. } => vec![*x, *w, *scratch, *y],
            Step::Scale { x, a, y } => vec![*x, *a, *y],
            Step::Add { x, with, y, .. } => vec![*x, *with, *y],
            Step::Gather { channels, y } => channels.iter().map(|(x, _)| *x).chain([*y]).collect(),
        }
    }

    /// Multiply-adds of an image, or elements passed over.
    pub fn work(&self, lens: &[usize]) -> usize {
        match self {
            Step::Conv { conv, .. } => conv.work(),
            Step::GeneratedConv { conv, .. } => conv.work(),
            Step::SampleConv { conv, .. } => conv.work(),
            _ => self.maps().iter().map(|map| lens[map.0]).sum(),
        }
    }

    /// Runs it; `shapes` are `[C, H, W]` of every map.
    pub fn run(&self, maps: &mut View<'_, T>, shapes: &[[usize; 3]]) {
        match self {
            Step::Conv { conv, x, y } => maps.write(*y, |maps, y| conv.run(maps.read(*x), maps.images, y)),
            Step::GeneratedConv { conv, x, a, scratch, y } => maps.write(*y, |maps, y| {
                maps.write(*scratch, |maps, scratch| {
                    conv.run(maps.read(*x), maps.read(*a), maps.images, scratch, y);
                });
            }),
            Step::SampleConv { conv, x, w, scratch, y } => maps.write(*y, |maps, y| {
                maps.write(*scratch, |maps, scratch| {
                    conv.run(maps.read(*x), maps.read(*w), maps.images, scratch, y);
                });
            }),
            Step::Mean { x, y } => maps.write(*y, |maps, y| dispatch(Mean { x: maps.read(*x), c: shapes[x.0][0], y })),
            Step::MaxPool { window, x, y } => {
                maps.write(*y, |maps, y| pool::max_pool_images(maps.read(*x), shapes[x.0], window, y));
            }
            Step::Sigmoid { x, y } => maps.write(*y, |maps, y| {
                y.iter_mut().zip(maps.read(*x)).for_each(|(y, &x)| *y = activation::logistic(x));
            }),
            Step::Softmax { tau, x, y } => maps.write(*y, |maps, y| {
                let m = shapes[x.0][0];
                let rows = y.chunks_exact_mut(m).zip(maps.read(*x).chunks_exact(m));
                rows.for_each(|(y, x)| softmax::softmax_row(x, *tau, y));
            }),
            Step::Scale { x, a, y } => maps.write(*y, |maps, y| {
                let [c, h, w] = shapes[x.0];
                let images = y.chunks_exact_mut(c * h * w).zip(maps.read(*x).chunks_exact(c * h * w));
                for ((y, x), a) in images.zip(maps.read(*a).chunks_exact(c)) {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        y.iter_mut().zip(x).zip(a).for_each(|((y, &x), &a)| *y = x * a);
                    }
                }
            }),
            Step::Add { x, with, rectifier, y } => maps.write(*y, |maps, y| {
                dispatch(Add { x: maps.read(*x), with: maps.read(*with), rectifier: *rectifier, y });
            }),
            Step::Gather { channels, y } => maps.write(*y, |maps, y| {
                let o = channels.len();
                for (at, &(x, channel)) in channels.iter().enumerate() {
                    let from = maps.read(x)[channel..].iter().step_by(shapes[x.0][0]);
                    y[at..].iter_mut().step_by(o).zip(from).for_each(|(y, &x)| *y = x);
                }
            }),
        }
    }
}

/// (pool.1) for some images.
struct Mean<'a, T> {
    x: &'a [T],
    c: usize,
    /// `[images, C]`.
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Mean<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Mean { x, c, y } = self;
        let images = y.len() / c;
        let of_x = x.len() / images.max(1);
        let count = T::of((of_x / c) as f64);
        for (x, y) in x.chunks_exact(of_x.max(1)).zip(y.chunks_exact_mut(c)) {
            y.fill(T::zero());
            // Sums of short blocks: the error grows with their number and length, not with the product.
            let mut block = [T::zero(); 64];
            for from in (0..c).step_by(64) {
                let n = (c - from).min(64);
                for pixels in x.chunks(64 * c) {
                    block[..n].fill(T::zero());
                    for x in pixels.chunks_exact(c) {
                        block[..n].iter_mut().zip(&x[from..from + n]).for_each(|(sum, &x)| *sum += x);
                    }
                    y[from..from + n].iter_mut().zip(&block[..n]).for_each(|(y, &sum)| *y += sum);
                }
            }
            y.iter_mut().for_each(|y| *y /= count);
        }
    }
}

/// A sum, rectified.
struct Add<'a, T> {
    x: &'a [T],
    with: &'a [T],
    rectifier: Rectifier,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Add<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let [low, high] = self.rectifier.bounds::<T>();
        for ((y, &x), &with) in self.y.iter_mut().zip(self.x).zip(self.with) {
            let sum = x + with;
            let sum = if sum < low { low } else { sum }; // a NaN is neither below nor above
            *y = if sum > high { high } else { sum };
        }
    }
}
