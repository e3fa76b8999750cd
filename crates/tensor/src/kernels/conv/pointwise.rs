//! 1x1 kernels with stride 1 and no padding: channels last, an image *is* the matrix pixels × channels, so the
//! convolution is one tall product. It goes block by block of pixels: a block is made, multiplied and finished while it
//! lies in the first cache.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::{BackwardTask, ForwardTask, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::{RowMoments, Sums};
use crate::kernels::pending::Rectifier;
use crate::kernels::tile::{Chunk, Product, Start, panel_row};
use crate::simd::{Kernel, Vector};

/// Elements of the wider side of a block.
const BLOCK: usize = 1 << 11;

/// Elements of a kernel that fit the first cache. A larger one is read, and its gradient written, from the second for each
/// block, which has to be worth it.
const KERNEL: usize = 1 << 13;

/// Pixels of a block.
fn block(s: &Sizes) -> usize {
    if s.c * s.o > KERNEL { 32 } else { (BLOCK / s.c.max(s.o)).clamp(8, 16) }
}

/// `pixels` in blocks.
fn blocks(s: &Sizes, pixels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let step = block(s);
    pixels.clone().step_by(step).map(move |start| start..(start + step).min(pixels.end))
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

// ANCHOR: forward
impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let mut moments = RowMoments::none(s.o);
        let mut made = Aligned::zeros(block(s) * s.c);
        let first = rows.start * s.w;
        for block in blocks(s, first..rows.end * s.w) {
            let a = match x.as_is(block.start, block.len()) {
                Some(a) => a,
                None => {
                    x.load::<V>(block.start, block.len(), None, &mut made, s.c);
                    &made[..]
                }
            };
            let y = &mut y[(block.start - first) * s.o..][..block.len() * s.o];
            let product = Product {
                rows: block.len(),
                columns: s.o,
                a_row: s.c,
                a_step: 1,
                b_row: panel_row(s.o),
                start: Start::of(bias),
                out: y.as_mut_ptr(),
                out_row: s.o,
                rectifier,
            };
            // SAFETY: `a` and `y` hold the block's rows, the panel C rows.
            unsafe {
                let reads = [x.ahead(block.start, block.len())];
                let ahead = Ahead::new(product.steps::<V>(s.c), reads, [Stretch::after(y)]);
                product.run_asking::<V, 1, 1>(&[Chunk { a: a.as_ptr(), b: w.as_ptr(), k: s.c }], ahead);
            }
            if with_moments {
                moments.add::<V>(y);
            }
        }
        moments
    }
}
// ANCHOR_END: forward

/// (conv.2) and (conv.3) for some images: both in one pass over the pixels.
pub(super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

// ANCHOR: backward
impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let BackwardTask { s, x, dy, w, images, mut dx, mut dw } = self.0;
        let mut sums = Sums::zeros(s.c);
        let (o_row, c_row) = (panel_row(s.o), panel_row(s.c));
        let (mut made, mut dz) = (Aligned::zeros(block(s) * s.c), Aligned::zeros(block(s) * o_row));
        let first = images.start * s.h * s.w;
        for block in blocks(s, first..images.end * s.h * s.w) {
            dy.load::<V>(block.start, block.len(), &mut dz, o_row);
            if let Some(dw) = &mut dw {
                let a = match x.as_is(block.start, block.len()) {
                    Some(a) => a,
                    None => {
                        x.load::<V>(block.start, block.len(), None, &mut made, s.c);
                        &made[..]
                    }
                };
                let product = Product {
                    rows: s.c,
                    columns: s.o,
                    a_row: 1,
                    a_step: s.c,
                    b_row: o_row,
                    start: Start::Output,
                    out: dw.as_mut_ptr(),
                    out_row: o_row,
                    rectifier: Rectifier::Identity,
                };
                // SAFETY: `a` and `dz` hold the block's rows, `dw` C rows of a panel.
                unsafe {
                    let reads = dy.ahead(block.start, block.len());
                    let ahead = Ahead::new(product.steps::<V>(block.len()), reads, []);
                    product.run_asking::<V, 2, 0>(&[Chunk { a: a.as_ptr(), b: dz.as_ptr(), k: block.len() }], ahead);
                }
            }
            if let Some(dx) = &mut dx {
                let dx = &mut dx[(block.start - first) * s.c..][..block.len() * s.c];
                let product = Product {
                    rows: block.len(),
                    columns: s.c,
                    a_row: o_row,
                    a_step: 1,
                    b_row: c_row,
                    start: Start::Zero,
                    out: dx.as_mut_ptr(),
                    out_row: s.c,
                    rectifier: Rectifier::Identity,
                };
                // SAFETY: `dz` and `dx` hold the block's rows, the panel O rows.
                unsafe {
                    let reads = [x.ahead(block.start, block.len())];
                    let ahead = Ahead::new(product.steps::<V>(s.o), reads, [Stretch::after(dx)]);
                    product.run_asking::<V, 1, 1>(&[Chunk { a: dz.as_ptr(), b: w.as_ptr(), k: s.o }], ahead);
                }
                x.finish::<V>(block.start, dx, &mut sums);
            }
        }
        sums
    }
}
// ANCHOR_END: backward
