//! Convolutions whose kernels are packed once and run many times, on the calling thread, from slice to slice: the steps of
//! a network that no longer learns.
//!
//! A *set* is what the fast paths read: the kernels in the path's order, and the bias behind them as one more row of
//! whole vectors. A dynamic convolution has a set for each sample, made by [`Factors`] in one product,
//! ```text
//! [W | b] = [W_b | b] + W_2 A [W_1 | b_1]      (prep.1)
//! ```
//! which is (compose.1) for kernels and bias at once.

#![allow(unsafe_code, reason = "products take raw pointers")]

use super::plan::{Finish, ForwardTask, Path};
use super::{Geometry, Sizes, columns};
use crate::aligned::Aligned;
use crate::kernels::pending::{Loader, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel_row, transposed_panel};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Error, Real, Result, Tensor};

/// Where a convolution stands, and how it is computed there.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of one image.
    s: Sizes,
    path: Path,
    rectifier: Rectifier,
}

impl Place {
    fn new<T: Real>(s: Sizes, rectifier: Rectifier) -> Self {
        Place { s, path: Path::of::<T>(&s), rectifier }
    }

    /// Where the bias of a set begins.
    fn bias_at(&self) -> usize {
        self.path.panel_len(&self.s).next_multiple_of(16)
    }

    /// Elements of a set.
    fn set_len(&self) -> usize {
        self.bias_at() + panel_row(self.s.o)
    }

    /// (conv.1) and the rectifier, for some images.
    fn run<T: Real>(&self, x: &[T], images: usize, set: &[T], y: &mut [T]) {
        let s = &Sizes { n: images, ..self.s };
        let task = ForwardTask {
            s,
            x: &Loader::plain(x, s.c),
            w: set,
            bias: Some(&set[self.bias_at()..]),
            rectifier: self.rectifier,
            rows: 0..images * s.oh,
            y,
            with_moments: false,
        };
        self.path.forward(task);
    }
}

/// A convolution with its kernels packed, and the rectifier behind it.
#[derive(Debug)]
pub(crate) struct Prepared<T> {
    place: Place,
    /// The set; the kernels as they lie in memory where the path goes by columns.
    set: Aligned<T>,
    /// The bias, where the path goes by columns.
    bias: Vec<T>,
}

impl<T: Real> Prepared<T> {
    /// `w [O,C/g,kh,kw]` and `b [O]` on maps of `[C, H, W]`.
    ///
    /// # Errors
    /// As [`conv2d`](super::conv2d).
    pub fn new(
        w: &Tensor<T>,
        b: Option<&Tensor<T>>,
        geo: &Geometry,
        input: [usize; 3],
        rectifier: Rectifier,
    ) -> Result<Self> {
        const OP: &str = "conv2d";
        let s = Sizes::of(OP, [1, input[0], input[1], input[2]], w, geo, false)?;
        b.map_or(Ok(()), |b| s.check_bias(OP, b))?;
        let place = Place::new::<T>(s, rectifier);
        let bias = b.map_or_else(|| vec![T::zero(); s.o], |b| b.as_slice().to_vec());
        if place.path == Path::Columns {
            return Ok(Prepared { place, set: Aligned::copy(w.as_slice()), bias });
        }
        let mut memory = Aligned::default();
        let kernels = place.path.forward_panel(&s, w.as_slice(), &mut memory);
        let mut set = Aligned::zeros(place.set_len());
        set[..kernels.len()].copy_from_slice(kernels);
        set[place.bias_at()..][..s.o].copy_from_slice(&bias);
        Ok(Prepared { place, set, bias: Vec::new() })
    }

    /// `[O, OH, OW]`.
    pub fn output(&self) -> [usize; 3] {
        let [_, o, oh, ow] = self.place.s.y_shape();
        [o, oh, ow]
    }

    /// Multiply-adds of an image.
    pub fn work(&self) -> usize {
        work(&self.place.s)
    }

    /// (conv.1) and the rectifier, for the images in `x [images, H, W, C]`.
    pub fn run(&self, x: &[T], images: usize, y: &mut [T]) {
        if self.place.path != Path::Columns {
            return self.place.run(x, images, &self.set, y);
        }
        let (s, rectifier) = (&self.place.s, self.place.rectifier);
        for (x, y) in x.chunks_exact(s.c * s.h * s.w).zip(y.chunks_exact_mut(s.o * s.oh * s.ow)).take(images) {
            columns::forward(s, x, &self.set, Some(&self.bias), 0..s.oh, y);
            dispatch(Finish { c: s.o, y, rectifier, with_moments: false });
        }
    }
}

/// A dynamic convolution, whose kernels and bias are composed for each sample, (prep.1).
#[derive(Debug)]
pub(crate) struct Generated<T> {
    place: Place,
    factors: Factors<T>,
}

/// What (prep.1) composes.
#[derive(Debug)]
struct Factors<T> {
    m: usize,
    /// `[W_b | b]`, a set.
    base: Aligned<T>,
    /// `[W_1 | b_1]`, `[m, taps + 1]`.
    w1: Vec<T>,
    /// W_2, a panel `[m, O]`.
    w2: Aligned<T>,
}

/// The kernels of a dynamic convolution, `W_b` or none.
#[derive(Debug, Clone, Copy)]
pub struct Kernels<'a, T: Real> {
    /// W_b `[O,C,kh,kw]`.
    pub base: Option<&'a Tensor<T>>,
    /// b `[O]`.
    pub b: &'a Tensor<T>,
    /// W_1 `[m,C,kh,kw]`.
    pub w1: &'a Tensor<T>,
    /// b_1 `[m]`.
    pub b1: &'a Tensor<T>,
    /// W_2 `[O,m,1,1]`.
    pub w2: &'a Tensor<T>,
}

impl<T: Real> Generated<T> {
    /// On maps of `[C, H, W]`, in one group.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Invalid`] if the kernels do not fit each other or the map, or there are groups.
    pub fn new(kernels: &Kernels<'_, T>, geo: &Geometry, input: [usize; 3], rectifier: Rectifier) -> Result<Self> {
        const OP: &str = "generated_conv2d";
        let Kernels { base, b, w1, b1, w2 } = *kernels;
        if geo.groups != 1 {
            return Err(Error::invalid(OP, format!("kernels are composed in one group, not in {}", geo.groups)));
        }
        let ([m, ..], [o, of_w2, one, uno]) = (w1.dims::<4>(OP, "w1")?, w2.dims::<4>(OP, "w2")?);
        if [of_w2, one, uno] != [m, 1, 1] || o == 0 {
            return Err(Error::shape(OP, "w2", format!("[O, {m}, 1, 1]"), w2.shape()));
        }
        if b1.shape()[..] != [m] {
            return Err(Error::shape(OP, "b1", format!("[{m}]"), b1.shape()));
        }
        // One output more or less does not move the taps: the sizes of W_1 with the outputs of W_2.
        let s = Sizes { o, ..Sizes::of(OP, [1, input[0], input[1], input[2]], w1, geo, false)? };
        s.check_bias(OP, b)?;
        if let Some(base) = base {
            Sizes::of(OP, [1, input[0], input[1], input[2]], base, geo, false)?;
            if base.shape()[..] != [o, s.c, s.kh, s.kw] {
                let expected = format!("[{o}, {}, {}, {}]", s.c, s.kh, s.kw);
                return Err(Error::shape(OP, "base", expected, base.shape()));
            }
        }
        // Depthwise and pointwise coincide at one channel; a panel of products serves every path but that one and tiles.
        let mut place = Place::new::<T>(s, rectifier);
        if matches!(place.path, Path::Depthwise | Path::Winograd) {
            place.path = Path::Dense;
        }
        let mut set = Aligned::zeros(place.set_len());
        if let Some(base) = base {
            let panel = transposed_panel(base.as_slice(), o, s.taps());
            set[..panel.len()].copy_from_slice(&panel);
        }
        set[place.bias_at()..][..o].copy_from_slice(b.as_slice());
        let rows = w1.as_slice().chunks_exact(s.taps()).zip(b1.as_slice());
        let w1 = rows.flat_map(|(w1, b1)| w1.iter().chain([b1]).copied()).collect();
        let w2 = Aligned::copy(&transposed_panel(w2.as_slice(), o, m));
        Ok(Generated { place, factors: Factors { m, base: set, w1, w2 } })
    }

    /// `[O, OH, OW]`.
    pub fn output(&self) -> [usize; 3] {
        let [_, o, oh, ow] = self.place.s.y_shape();
        [o, oh, ow]
    }

    /// The gates of a sample, m.
    pub fn gates(&self) -> usize {
        self.factors.m
    }

    /// Elements that the kernels of one sample take, and W_2 A behind them.
    pub fn scratch(&self) -> usize {
        self.place.set_len() + self.factors.w2.len()
    }

    /// Multiply-adds of an image.
    pub fn work(&self) -> usize {
        work(&self.place.s) + self.factors.w1.len() * self.place.s.o
    }

    /// (prep.1), (conv.1) and the rectifier, for the images in `x [images, H, W, C]` with gates `a [images, m]`.
    pub fn run(&self, x: &[T], a: &[T], images: usize, scratch: &mut [T], y: &mut [T]) {
        let of_x = self.place.s.c * self.place.s.h * self.place.s.w;
        let of_y = self.place.s.o * self.place.s.oh * self.place.s.ow;
        let (set, scaled) = scratch[..self.scratch()].split_at_mut(self.place.set_len());
        let images =
            x.chunks_exact(of_x).zip(a.chunks_exact(self.factors.m)).zip(y.chunks_exact_mut(of_y)).take(images);
        // One image after the other: its kernels stay in the first cache.
        for ((x, a), y) in images {
            dispatch(Compose { of: &self.factors, columns: self.place.s.o, a, set, scaled });
            self.place.run(x, 1, set, y);
        }
    }
}

/// A convolution whose kernels come with each image, made by the steps before it.
#[derive(Debug)]
pub(crate) struct PerSample<T> {
    place: Place,
    bias: Vec<T>,
}

impl<T: Real> PerSample<T> {
    /// For kernels of `[O,C/g,kh,kw]` and `b [O]`, which all images share, on maps of `[C, H, W]`.
    ///
    /// # Errors
    /// As [`conv2d`](super::conv2d).
    pub fn new(
        kernels: [usize; 4],
        b: &Tensor<T>,
        geo: &Geometry,
        input: [usize; 3],
        rectifier: Rectifier,
    ) -> Result<Self> {
        const OP: &str = "conv2d_per_sample";
        let s = Sizes::of(OP, [1, input[0], input[1], input[2]], &Tensor::<T>::zeros(kernels), geo, false)?;
        s.check_bias(OP, b)?;
        let mut place = Place::new::<T>(s, rectifier);
        if matches!(place.path, Path::Depthwise | Path::Winograd) {
            // Kernels for one image are not worth another order, or other kernels.
            place.path = if geo.groups == 1 { Path::Dense } else { Path::Columns };
        }
        Ok(PerSample { place, bias: b.as_slice().to_vec() })
    }

    /// `[O, OH, OW]`.
    pub fn output(&self) -> [usize; 3] {
        let [_, o, oh, ow] = self.place.s.y_shape();
        [o, oh, ow]
    }

    /// Elements of the kernels of one image.
    pub fn weights(&self) -> usize {
        self.place.s.weights()
    }

    /// Elements that the packed kernels of one image take.
    pub fn scratch(&self) -> usize {
        if self.place.path == Path::Columns { 1 } else { self.place.set_len() }
    }

    /// Multiply-adds of an image.
    pub fn work(&self) -> usize {
        work(&self.place.s)
    }

    /// (conv.1) and the rectifier, for the images in `x [images, H, W, C]` with kernels `w [images, O, kh, kw, C/g]`.
    pub fn run(&self, x: &[T], w: &[T], images: usize, scratch: &mut [T], y: &mut [T]) {
        let (s, rectifier) = (&self.place.s, self.place.rectifier);
        let images = x.chunks_exact(s.c * s.h * s.w).zip(w.chunks_exact(s.weights())).take(images);
        for ((x, w), y) in images.zip(y.chunks_exact_mut(s.o * s.oh * s.ow)) {
            if self.place.path == Path::Columns {
                columns::forward(s, x, w, Some(&self.bias), 0..s.oh, y);
                dispatch(Finish { c: s.o, y, rectifier, with_moments: false });
                continue;
            }
            let set = &mut scratch[..self.place.set_len()];
            set.fill(T::zero());
            let row = panel_row(s.o);
            for (o, w) in w.chunks_exact(s.taps()).enumerate() {
                w.iter().zip(set[o..].iter_mut().step_by(row)).for_each(|(&w, set)| *set = w);
            }
            set[self.place.bias_at()..][..s.o].copy_from_slice(&self.bias);
            self.place.run(x, 1, set, y);
        }
    }
}

fn work(s: &Sizes) -> usize {
    (s.oh * s.ow).saturating_mul(s.weights())
}

/// (prep.1) for one sample.
struct Compose<'a, T> {
    of: &'a Factors<T>,
    columns: usize,
    a: &'a [T],
    set: &'a mut [T],
    /// For A W_2ᵀ.
    scaled: &'a mut [T],
}

impl<T: Real> Kernel<T> for Compose<'_, T> {
    type Output = ();

    // ANCHOR: compose
    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Compose { of: Factors { m, base, w1, w2 }, columns, a, set, scaled } = self;
        let (row, m) = (panel_row(columns), *m);
        for ((scaled, w2), &a) in scaled.chunks_exact_mut(row).zip(w2.chunks_exact(row)).zip(a) {
            scaled.iter_mut().zip(w2).for_each(|(scaled, &w2)| *scaled = w2 * a);
        }
        set.copy_from_slice(base);
        let rows = set.len() / row;
        assert!(w1.len() == m * rows && scaled.len() == m * row);
        let product = Product {
            rows,
            columns,
            a_row: 1,
            a_step: rows,
            b_row: row,
            start: Start::Output,
            out: set.as_mut_ptr(),
            out_row: row,
            rectifier: Rectifier::Identity,
        };
        // SAFETY: `w1` is m rows of taps and bias, `scaled` a panel of m rows, and the set has a row for each tap and the bias.
        unsafe { product.run::<V>(&[Chunk { a: w1.as_ptr(), b: scaled.as_ptr(), k: m }]) };
    }
    // ANCHOR_END: compose
}

/// `w [O, I]` and `b [O]` as a convolution of maps of one position: what a fully connected layer is.
pub(crate) fn linear<T: Real>(
    w: &Tensor<T>,
    b: Option<&Tensor<T>>,
    input: [usize; 3],
    rectifier: Rectifier,
) -> Result<Prepared<T>> {
    let [o, i] = w.dims("linear", "w")?;
    if input != [i, 1, 1] {
        return Err(Error::shape("linear", "x", format!("[N, {i}]"), &input));
    }
    Prepared::new(&w.reshape([o, i, 1, 1])?, b, &Geometry::default(), input, rectifier)
}
