//! What a site gives, pending: the one affine map of each sample, and who needs pixels makes them from the site's input.
//! A depthwise convolution behind the site makes them row by row while it reads, and again on the way back, so that
//! the map is never in memory.

#![allow(unsafe_code, reason = "products take raw pointers")]

use std::ops::Range;

use super::panels::scale_rows;
use super::saved::Saved;
use super::{Site, Sizes, Task, block, blocks, to_f64};
use crate::aligned::Aligned;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::pending::{Loader, Pending, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel, panel_row, transposed_panel};
use crate::parallel::{PIECES, parts_mut, ranges, run_tasks};
use crate::simd::{Kernel, Vector, dispatch};
use crate::{Real, Result, Shape, Tensor};

/// `y_b = rectify(M_b (x_b − μ_b) + f_b)`, (ft.7), which nobody has made.
#[derive(Clone, Debug)]
pub struct PendingSite<T: Real> {
    x: Pending<T>,
    /// μ_b and C_b of all samples.
    moments: Tensor<T>,
    /// M_bᵀ as panels `[S, C, Cout]`, and f_b in whole vectors.
    maps: Tensor<T>,
    shifts: Tensor<T>,
    rectifier: Rectifier,
    shape: Shape,
    s: Sizes,
}

impl<T: Real> PendingSite<T> {
    /// M_b and f_b from what (ft.1) to (ft.6) have given.
    pub(super) fn new(
        x: &Pending<T>,
        moments: &Tensor<T>,
        site: &Site<'_, T>,
        saved: &Saved<T>,
        rectifier: Rectifier,
    ) -> Result<Self> {
        let s = saved.s;
        let Sizes { samples, c, o, .. } = s;
        let o_row = panel_row(o);
        let (mut maps, mut shifts) = (Tensor::any([samples, c, o_row]), Tensor::any([samples, o_row]));
        let common = &Common::of(site, saved);
        let pieces = ranges(samples, PIECES);
        let parts = parts_mut(maps.as_mut_slice(), &pieces, c * o_row);
        let parts = parts.into_iter().zip(parts_mut(shifts.as_mut_slice(), &pieces, o_row));
        run_tasks(pieces.iter().cloned().zip(parts).collect(), samples * c * o * s.m, |(samples, (maps, shifts))| {
            dispatch(Maps { saved, common, samples, maps, shifts });
        });
        PendingSite::of(x, moments, [maps, shifts], rectifier, s)
    }

    /// From M_bᵀ and f_b as panels.
    pub(super) fn of(
        x: &Pending<T>,
        moments: &Tensor<T>,
        [maps, shifts]: [Tensor<T>; 2],
        rectifier: Rectifier,
        s: Sizes,
    ) -> Result<Self> {
        let [n, _, h, w] = x.z.dims("folded", "x")?;
        let (x, moments) = (x.clone(), moments.clone());
        Ok(PendingSite { x, moments, maps, shifts, rectifier, shape: [n, s.o, h, w].into(), s })
    }

    /// `[N,Cout,H,W]`.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The rectifier that is applied to the map as it is made.
    pub fn rectifier(&self) -> Rectifier {
        self.rectifier
    }

    /// What it is made of: the site's input, and its moments.
    pub(super) fn input(&self) -> (&Pending<T>, &Tensor<T>) {
        (&self.x, &self.moments)
    }

    /// Channels of the site's input and output.
    pub(crate) fn channels(&self) -> [usize; 2] {
        [self.s.c, self.s.o]
    }

    /// The map itself, (ft.7): one pass over memory.
    #[must_use]
    pub fn make(&self) -> Tensor<T> {
        let mut y = Tensor::any(self.shape);
        let tasks = Task::all(self.s.samples, self.s.positions);
        let pixels: Vec<Range<usize>> = tasks.iter().map(Task::pixels).collect();
        let parts = parts_mut(y.as_mut_slice(), &pixels, self.s.o);
        run_tasks(tasks.into_iter().zip(parts).collect(), self.macs(), |(task, y)| {
            dispatch(Make { rows: self.rows::<0, 0>(block(self.s.c, self.s.o), 1), task, y });
        });
        y
    }

    /// Multiply-adds of (ft.7).
    pub(crate) fn macs(&self) -> usize {
        self.s.count() * self.s.c * self.s.o
    }

    /// How a kernel makes its pixels, `pixels` at a time; what they were made of is kept in `slots` places.
    pub(crate) fn rows<const C: usize, const O: usize>(&self, pixels: usize, slots: usize) -> SiteRows<'_, T, C, O> {
        assert!(C + O == 0 || [C, O] == self.channels());
        let len = pixels * panel_row(self.s.c);
        SiteRows { site: self, x: self.x.loader(), len, centred: Aligned::zeros(slots * len) }
    }

    /// Whose pixel `first` is: without a gate the batch counts as one sample.
    pub(crate) fn sample(&self, first: usize) -> usize {
        first / self.s.positions
    }
}

/// What all M_b and f_b share.
struct Common<T> {
    /// (diag(s_0) W_0)ᵀ, a panel `[C, Cout]`.
    w0: Aligned<T>,
    /// (diag(s_2) W_2)ᵀ, a panel `[m, Cout]`.
    w2: Aligned<T>,
    /// β_0 + β_2, whole vectors.
    beta: Aligned<T>,
}

impl<T: Real> Common<T> {
    fn of(site: &Site<'_, T>, saved: &Saved<T>) -> Self {
        let Sizes { c, o, m, .. } = saved.s;
        let s2 = &saved.second().s;
        let w2 = site.second.weight.as_slice();
        let scaled: Vec<T> = w2.iter().enumerate().map(|(at, w)| T::of(s2[at / m] * w.f64())).collect();
        let w0: Vec<T> = saved.w0.chunks_exact(panel_row(c)).flat_map(|row| &row[..c]).copied().collect();
        let mut beta = to_f64(site.second.beta.as_slice());
        if let Some(bypass) = &site.bypass {
            beta.iter_mut().zip(bypass.beta.as_slice()).for_each(|(sum, beta)| *sum += beta.f64());
        }
        Common {
            w0: transposed_panel(&w0, o, c),
            w2: transposed_panel(&scaled, o, m),
            beta: panel(&beta.iter().map(|&beta| T::of(beta)).collect::<Vec<T>>(), o),
        }
    }
}

/// M_b = diag(s_0) W_0 + diag(s_2) W_2 diag(a_b) V and f_b of some samples.
struct Maps<'a, T: Real> {
    saved: &'a Saved<T>,
    common: &'a Common<T>,
    samples: Range<usize>,
    maps: &'a mut [T],
    shifts: &'a mut [T],
}

impl<T: Real> Kernel<T> for Maps<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Maps { saved, common, samples, maps, shifts } = self;
        let Sizes { c, o, m, .. } = saved.s;
        let (row, o_row) = (panel_row(c), panel_row(o));
        let mut gated = saved.v.clone();
        // f_b = β_0 + β_2 + s_2 ⊙ (e_b − m_2) + diag(s_0) W_0 δ_b, a row a sample.
        let s2: Vec<T> = saved.second().s.iter().map(|&s2| T::of(s2)).collect();
        for (f, e) in shifts.chunks_exact_mut(o_row).zip(saved.e[samples.start * o..].chunks_exact(o)) {
            f.copy_from_slice(&common.beta);
            f.iter_mut().zip(&s2).zip(e).for_each(|((f, &s2), &e)| *f += s2 * e);
        }
        let of_f = Product {
            rows: samples.len(),
            columns: o,
            a_row: row,
            a_step: 1,
            b_row: o_row,
            start: Start::Output,
            out: shifts.as_mut_ptr(),
            out_row: o_row,
            rectifier: Rectifier::Identity,
        };
        let delta = saved.delta[samples.start * row..].as_ptr();
        // SAFETY: `delta` and `shifts` have a row for each sample, the panel has C.
        unsafe { of_f.run::<V>(&[Chunk { a: delta, b: common.w0.as_ptr(), k: c }]) };
        for (b, map) in samples.zip(maps.chunks_exact_mut(c * o_row)) {
            map.copy_from_slice(&common.w0);
            scale_rows::<T, V>(&saved.v, &saved.a[b * m..][..m], &mut gated);
            let of_map = Product { rows: c, a_row: 1, a_step: row, out: map.as_mut_ptr(), ..of_f };
            // SAFETY: the panels have m rows, `map` has C.
            unsafe { of_map.run::<V>(&[Chunk { a: gated.as_ptr(), b: common.w2.as_ptr(), k: m }]) };
        }
    }
}

/// Makes pixels, (ft.7), with a task's scratch. C and Cout, where loops are compiled for them, or 0.
pub(crate) struct SiteRows<'a, T: Real, const C: usize, const O: usize> {
    site: &'a PendingSite<T>,
    x: Loader<'a, T>,
    /// x_b − μ_b, a panel of `len` elements for each slot.
    len: usize,
    centred: Aligned<T>,
}

impl<'a, T: Real, const C: usize, const O: usize> SiteRows<'a, T, C, O> {
    /// Channels of the input and the output.
    #[inline(always)]
    pub fn channels(&self) -> [usize; 2] {
        if O == 0 { self.site.channels() } else { [C, O] }
    }

    /// The site that the pixels are of.
    pub fn site(&self) -> &'a PendingSite<T> {
        self.site
    }

    /// x_b − μ_b of the pixels that were made last with this slot, a panel.
    #[inline(always)]
    pub fn centred(&self, slot: usize) -> &[T] {
        &self.centred[slot * self.len..][..self.len]
    }

    /// The pixels `y` of one sample from `first` on, asking for the `W` stretches that will be written on the way.
    // ANCHOR: apply
    #[inline(always)]
    pub fn make<V: Vector<T>, const W: usize>(
        &mut self,
        slot: usize,
        first: usize,
        y: &mut [T],
        writes: [Stretch<T>; W],
    ) {
        let PendingSite { moments, maps, shifts, rectifier, .. } = self.site;
        let [c, o] = self.channels();
        let x = self.x.of_channels(c);
        let (b, c_row, o_row, pixels) = (self.site.sample(first), panel_row(c), panel_row(o), y.len() / o);
        let centred = &mut self.centred[slot * self.len..][..self.len];
        assert!(y.len() == pixels * o && centred.len() >= pixels * c_row);
        x.load::<V>(first, pixels, Some(&moments.as_slice()[b * (c + c * c)..][..c]), centred, c_row);
        let product = Product {
            rows: pixels,
            columns: o,
            a_row: c_row,
            a_step: 1,
            b_row: o_row,
            start: Start::Bias(shifts.as_slice()[b * o_row..][..o_row].as_ptr()),
            out: y.as_mut_ptr(),
            out_row: o,
            rectifier: *rectifier,
        };
        let map = &maps.as_slice()[b * c * o_row..][..c * o_row];
        // SAFETY: `centred` and `y` hold the pixels, `map` C rows, the shift whole vectors.
        unsafe {
            let ahead = Ahead::new(product.steps::<V>(c), [x.ahead(first, pixels)], writes);
            product.run_asking::<V, 1, W>(&[Chunk { a: centred.as_ptr(), b: map.as_ptr(), k: c }], ahead);
        }
    }
    // ANCHOR_END: apply
}

/// (ft.7) for the pixels of a task.
struct Make<'a, T: Real> {
    rows: SiteRows<'a, T, 0, 0>,
    task: Task,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Make<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Make { mut rows, task, y } = self;
        let Sizes { c, o, .. } = rows.site.s;
        let first = task.pixels().start;
        for (_, pixels) in task.0 {
            for block in blocks(pixels, block(c, o)) {
                let y = &mut y[(block.start - first) * o..][..block.len() * o];
                let after = Stretch::after(y);
                rows.make::<V, 1>(0, block.start, y, [after]);
            }
        }
    }
}
