//! 1x1 kernels with stride 1 and no padding: channels last, an image *is* the matrix pixels × channels, so the
//! convolution is one tall product. It goes block by block of pixels: a block is made, multiplied and finished while it
//! lies in the first cache.

#![allow(unsafe_code, reason = "products take raw pointers")]

use super::{BackwardTask, ForwardTask};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::{RowMoments, Sums};
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel_row};
use crate::simd::{Kernel, Vector};

/// Elements of the wider side of a block.
const BLOCK: usize = 1 << 11;

/// Elements of a kernel that fit the first cache. A larger one is read, and its gradient written, from the second for each
/// block, which has to be worth it.
const KERNEL: usize = 1 << 13;

/// Pixels of a block.
#[inline(always)]
fn block([c, o]: [usize; 2]) -> usize {
    if c * o > KERNEL { 32 } else { (BLOCK / c.max(o)).clamp(8, 16) }
}

/// A pass over pixels, block by block.
trait Blocks<T: Real>: Kernel<T> {
    /// With these channels, C and O; `whole`: no block is shorter than the others.
    fn blocks<V: Vector<T>>(self, channels: [usize; 2], whole: bool) -> Self::Output;
}

/// [`Blocks::blocks`] over `pixels` pixels, by loops that know the channels if these are usual ones.
// ANCHOR: known
#[inline(always)]
fn in_blocks<T: Real, V: Vector<T>, B: Blocks<T>>(pass: B, channels: [usize; 2], pixels: usize) -> B::Output {
    let whole = pixels.is_multiple_of(block(channels));
    match channels {
        [16, 16] if V::KNOWS && whole => pass.blocks::<V>([16, 16], true),
        [16, 32] if V::KNOWS && whole => pass.blocks::<V>([16, 32], true),
        [32, 64] if V::KNOWS && whole => pass.blocks::<V>([32, 64], true),
        channels => pass.blocks::<V>(channels, false),
    }
}
// ANCHOR_END: known

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let (s, rows) = (self.0.s, self.0.rows.len());
        in_blocks::<T, V, _>(self, [s.c, s.o], rows * s.w)
    }
}

impl<T: Real> Blocks<T> for Forward<'_, T> {
    #[inline(always)]
    fn blocks<V: Vector<T>>(self, [c, o]: [usize; 2], whole: bool) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let size = block([c, o]);
        let mut block = ForwardBlock {
            channels: [c, o],
            x: x.of_channels(c),
            w,
            bias,
            rectifier,
            made: Aligned::zeros(size * c),
            with_moments,
            moments: RowMoments::none(o),
        };
        let (first, pixels) = (rows.start * s.w, rows.len() * s.w);
        for start in (0..pixels).step_by(size) {
            let size = if whole { size } else { size.min(pixels - start) };
            block.run::<V>(first + start, size, &mut y[start * o..][..size * o]);
        }
        block.moments
    }
}

/// What the blocks of a forward pass have in common.
struct ForwardBlock<'a, T: Real> {
    channels: [usize; 2],
    x: Loader<'a, T>,
    w: &'a [T],
    bias: Option<&'a [T]>,
    rectifier: Rectifier,
    made: Aligned<T>,
    with_moments: bool,
    moments: RowMoments<T>,
}

impl<T: Real> ForwardBlock<'_, T> {
    /// `pixels` pixels from `first` on.
    // ANCHOR: forward
    #[inline(always)]
    fn run<V: Vector<T>>(&mut self, first: usize, pixels: usize, y: &mut [T]) {
        let ([c, o], x) = (self.channels, &self.x);
        let a = match x.as_is(first, pixels) {
            Some(a) => a,
            None => {
                x.load::<V>(first, pixels, None, &mut self.made, c);
                &self.made[..]
            }
        };
        let product = Product {
            rows: pixels,
            columns: o,
            a_row: c,
            a_step: 1,
            b_row: panel_row(o),
            start: Start::of(self.bias),
            out: y.as_mut_ptr(),
            out_row: o,
            rectifier: self.rectifier,
        };
        let ahead = Ahead::new(product.steps::<V>(c), [x.ahead(first, pixels)], [Stretch::after(y)]);
        assert!(y.len() == pixels * o);
        // SAFETY: `a` and `y` hold the block's rows, the panel C rows.
        unsafe { product.run_asking::<V, 1, 1>(&[Chunk { a: a.as_ptr(), b: self.w.as_ptr(), k: c }], ahead) };
        if self.with_moments {
            self.moments.add::<V>(y, o);
        }
    }
    // ANCHOR_END: forward
}

/// (conv.2) and (conv.3) for some images: both in one pass over the pixels.
pub(super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let (s, images) = (self.0.s, self.0.images.len());
        in_blocks::<T, V, _>(self, [s.c, s.o], images * s.h * s.w)
    }
}

impl<T: Real> Blocks<T> for Backward<'_, T> {
    #[inline(always)]
    fn blocks<V: Vector<T>>(self, [c, o]: [usize; 2], whole: bool) -> Sums {
        let BackwardTask { s, x, dy, w, images, mut dx, mut dw } = self.0;
        let size = block([c, o]);
        let mut block = BackwardBlock {
            channels: [c, o],
            x: x.of_channels(c),
            dy: dy.of_channels(o),
            w,
            made: Aligned::zeros(size * c),
            dz: Aligned::zeros(size * panel_row(o)),
            sums: Sums::zeros(c),
        };
        let (first, pixels) = (images.start * s.h * s.w, images.len() * s.h * s.w);
        for start in (0..pixels).step_by(size) {
            let size = if whole { size } else { size.min(pixels - start) };
            let dx = dx.as_deref_mut().map(|dx| &mut dx[start * c..][..size * c]);
            block.run::<V>(first + start, size, dx, dw.as_deref_mut());
        }
        block.sums
    }
}

/// What the blocks of a backward pass have in common.
struct BackwardBlock<'a, T: Real> {
    channels: [usize; 2],
    x: Loader<'a, T>,
    dy: GradLoader<'a, T>,
    w: &'a [T],
    made: Aligned<T>,
    dz: Aligned<T>,
    sums: Sums,
}

impl<T: Real> BackwardBlock<'_, T> {
    /// `pixels` pixels from `first` on.
    // ANCHOR: backward
    #[inline(always)]
    fn run<V: Vector<T>>(&mut self, first: usize, pixels: usize, dx: Option<&mut [T]>, dw: Option<&mut [T]>) {
        let ([c, o], x, dy) = (self.channels, &self.x, &self.dy);
        let (c_row, o_row) = (panel_row(c), panel_row(o));
        dy.load::<V>(first, pixels, &mut self.dz, o_row);
        if let Some(dw) = dw {
            let a = match x.as_is(first, pixels) {
                Some(a) => a,
                None => {
                    x.load::<V>(first, pixels, None, &mut self.made, c);
                    &self.made[..]
                }
            };
            let product = Product {
                rows: c,
                columns: o,
                a_row: 1,
                a_step: c,
                b_row: o_row,
                start: Start::Output,
                out: dw.as_mut_ptr(),
                out_row: o_row,
                rectifier: Rectifier::Identity,
            };
            let ahead = Ahead::new(product.steps::<V>(pixels), dy.ahead(first, pixels), []);
            // SAFETY: `a` and `dz` hold the block's rows, `dw` C rows of a panel.
            unsafe {
                product.run_asking::<V, 2, 0>(&[Chunk { a: a.as_ptr(), b: self.dz.as_ptr(), k: pixels }], ahead);
            }
        }
        if let Some(dx) = dx {
            let product = Product {
                rows: pixels,
                columns: c,
                a_row: o_row,
                a_step: 1,
                b_row: c_row,
                start: Start::Zero,
                out: dx.as_mut_ptr(),
                out_row: c,
                rectifier: Rectifier::Identity,
            };
            let ahead = Ahead::new(product.steps::<V>(o), [x.ahead(first, pixels)], [Stretch::after(dx)]);
            assert!(dx.len() == pixels * c);
            // SAFETY: `dz` and `dx` hold the block's rows, the panel O rows.
            unsafe {
                product.run_asking::<V, 1, 1>(&[Chunk { a: self.dz.as_ptr(), b: self.w.as_ptr(), k: o }], ahead);
            }
            x.finish::<V>(first, dx, &mut self.sums);
        }
    }
    // ANCHOR_END: backward
}
