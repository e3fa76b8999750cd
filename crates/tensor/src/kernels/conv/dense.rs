//! k x k kernels with one group: columns that are never written down. Channels last, a row of a patch lies together in
//! the padded input row, so the product reads its operand straight from there, pixel after pixel `stride·C` apart.

#![allow(unsafe_code, reason = "products take raw pointers")]

mod grad;

use std::ops::Range;

pub(super) use grad::{Backward, fill_turned_panel};

use super::window::{Rows, Window};
use super::{ForwardTask, Sizes};
use crate::Real;
use crate::kernels::ahead::{Ahead, Stretch};
use crate::kernels::moments::RowMoments;
use crate::kernels::pending::{Loader, Rectifier};
use crate::kernels::tile::{Chunk, Product, Start, panel_row};
use crate::simd::{Kernel, Vector};

fn window<'a, T: Real>(s: &Sizes, source: &'a Loader<'a, T>, height: usize) -> Window<T, &'a Loader<'a, T>> {
    Window::new(source, s.w, [s.geo.padding[1]; 2], height)
}

/// Rows of four pixels that are made together: as many as are summed up in `T`.
const TALLEST: usize = 16;

/// How the rows of an image that is four pixels wide are made together, two a tile: a product for each row of taps, over
/// the rows that it reaches. The first one reaches all of them, the others add to what is there.
struct Fours(Vec<RowOfTaps>);

/// A row of taps in [`Fours`].
struct RowOfTaps {
    u: usize,
    /// The rows that it reaches.
    rows: Range<usize>,
    /// The operand's row for the first of them, and how many rows of it lie between them.
    first: usize,
    step: usize,
}

impl Fours {
    /// How the output is made, (conv.1), if it is of this kind. A rectifier would have to wait for the last product.
    fn of_output(s: &Sizes, rectifier: Rectifier) -> Option<Self> {
        let fours = Fours::of([s.oh, s.ow], s, s.h, |i, u| s.row_under(i, u));
        fours.filter(|_| rectifier == Rectifier::Identity)
    }

    /// How the input's gradient is made, (conv.3), likewise.
    fn of_input(s: &Sizes) -> Option<Self> {
        let fours = Fours::of([s.h, s.w], s, s.oh, |h, u| s.row_above(h, u));
        fours.filter(|_| s.geo.stride == [1; 2])
    }

    /// With sixteen registers a tile of two vectors has four rows anyway.
    fn pay<T: Real, V: Vector<T>>() -> bool {
        V::REGISTERS >= 32
    }

    /// The operand has `held` rows an image. A window that holds as many or more has a power of two of slots, so rows that
    /// are a power of two too begin at a multiple of it, and lie evenly.
    fn of(
        [height, width]: [usize; 2],
        s: &Sizes,
        held: usize,
        row_for: impl Fn(usize, usize) -> Option<usize>,
    ) -> Option<Self> {
        if width != 4 || height > TALLEST || held > 2 * TALLEST || !held.is_power_of_two() {
            return None;
        }
        let taps = |u: usize| {
            let mut reached = (0..height).filter(|&row| row_for(row, u).is_some());
            let first = reached.next()?;
            let rows = first..reached.last().unwrap_or(first) + 1;
            Some(RowOfTaps { u, rows, first: row_for(first, u)?, step: s.geo.stride[0] })
        };
        let mut taps: Vec<_> = (0..s.kh).filter_map(taps).collect();
        let whole = taps.iter().position(|taps| taps.rows == (0..height))?;
        taps.swap(0, whole);
        Some(Fours(taps))
    }
}

impl RowOfTaps {
    /// Makes the operand's rows of an image that begins with row `image`: the first one, and how far apart they lie.
    #[inline(always)]
    fn lines<T: Real, V: Vector<T>>(&self, window: &mut Window<T, impl Rows<T>>, image: usize) -> (*const T, usize) {
        let (mut first, mut apart) = (std::ptr::null::<T>(), 0);
        for i in 0..self.rows.len() {
            let line = window.row::<V>(image + self.first + i * self.step);
            match i {
                0 => first = line,
                1 => apart = (line as usize - first as usize) / size_of::<T>(),
                _ => {}
            }
            debug_assert_eq!(first.wrapping_add(i * apart), line, "rows lie evenly");
        }
        (first, apart)
    }
}

/// The parts of the patches of output row `row`: where the first one starts, and its row of the panel. Returns how many
/// elements a part has.
#[inline(always)]
fn parts<T: Real, V: Vector<T>>(
    s: &Sizes,
    window: &mut Window<T, &Loader<'_, T>>,
    row: usize,
    parts: &mut Vec<(*const T, usize)>,
) -> usize {
    let d = s.geo.dilation[1];
    let (n, i) = (row / s.oh, row % s.oh);
    parts.clear();
    for u in 0..s.kh {
        let Some(h) = s.row_under(i, u) else { continue };
        let line = window.row::<V>(n * s.h + h);
        if d == 1 {
            parts.push((line, u * s.kw * s.c)); // the taps of a row lie side by side
        } else {
            // The last tap of the first patch lies inside the padded row.
            parts.extend((0..s.kw).map(|v| (line.wrapping_add(v * d * s.c), (u * s.kw + v) * s.c)));
        }
    }
    if d == 1 { s.kw * s.c } else { s.c }
}

/// A convolution row by row, or where images are four pixels wide image by image.
struct Slide<'a, T: Real> {
    s: &'a Sizes,
    window: Window<T, &'a Loader<'a, T>>,
    parts: Vec<(*const T, usize)>,
    chunks: Vec<Chunk<T>>,
}

impl<'a, T: Real> Slide<'a, T> {
    fn new(s: &'a Sizes, source: &'a Loader<'a, T>, fours: Option<&Fours>) -> Self {
        let height = if fours.is_some() { s.h.max(s.reach()) } else { s.reach() };
        Slide { s, window: window(s, source, height), parts: Vec::new(), chunks: Vec::new() }
    }

    /// Row `row` of the batch's output.
    // ANCHOR: slide
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize, panel: &[T], start: Start<T>, rectifier: Rectifier, y: &mut [T]) {
        let s = self.s;
        let k = parts::<T, V>(s, &mut self.window, row, &mut self.parts);
        self.chunks.clear();
        for &(a, at) in &self.parts {
            self.chunks.push(Chunk { a, b: panel[at * panel_row(s.o)..].as_ptr(), k });
        }
        let product = Product {
            rows: s.ow,
            columns: s.o,
            a_row: s.geo.stride[1] * s.c,
            a_step: 1,
            b_row: panel_row(s.o),
            start,
            out: y[..s.ow * s.o].as_mut_ptr(),
            out_row: s.o,
            rectifier,
        };
        let ahead = Ahead::new(product.steps::<V>(k * self.chunks.len().max(1)), [], [Stretch::after(y)]);
        // SAFETY: every patch lies inside its padded rows, `y` holds a row of the output.
        unsafe { product.run_asking::<V, 0, 1>(&self.chunks, ahead) };
    }
    // ANCHOR_END: slide

    /// Image `n` of the output, by `fours`.
    #[inline(always)]
    fn image<V: Vector<T>>(&mut self, n: usize, fours: &Fours, panel: &[T], start: Start<T>, y: &mut [T]) {
        let s = self.s;
        let (d, o_row, len) = (s.geo.dilation[1], panel_row(s.o), s.ow * s.o);
        let (k, side_by_side) = if d == 1 { (s.kw * s.c, s.kw) } else { (s.c, 1) };
        for (place, taps) in fours.0.iter().enumerate() {
            let (line, apart) = taps.lines::<T, V>(&mut self.window, n * s.h);
            self.chunks.clear();
            for v in (0..s.kw).step_by(side_by_side) {
                let (a, at) = (line.wrapping_add(v * d * s.c), (taps.u * s.kw + v) * s.c);
                self.chunks.push(Chunk { a, b: panel[at * o_row..].as_ptr(), k });
            }
            let product = Product {
                rows: taps.rows.len() * s.ow,
                columns: s.o,
                a_row: s.geo.stride[1] * s.c,
                a_step: 1,
                b_row: o_row,
                start: if place == 0 { start } else { Start::Output },
                out: y[taps.rows.start * len..taps.rows.end * len].as_mut_ptr(),
                out_row: s.o,
                rectifier: Rectifier::Identity,
            };
            // SAFETY: every patch lies inside its padded rows, which lie evenly in the window; `y` holds the image.
            unsafe { product.run_fours::<V, 0, 0>(&self.chunks, apart, Ahead::NOTHING) };
        }
    }
}

/// Output rows that a task must have all or none of.
pub(super) fn rows_together(s: &Sizes, rectifier: Rectifier) -> usize {
    if Fours::of_output(s, rectifier).is_some() { s.oh } else { 1 }
}

/// (conv.1) for some rows of the batch.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let mut moments = RowMoments::none(s.o);
        let fours = Fours::of_output(s, rectifier).filter(|_| Fours::pay::<T, V>());
        let mut slide = Slide::new(s, x, fours.as_ref());
        let step = if fours.is_some() { s.oh } else { 1 };
        for (row, y) in rows.step_by(step).zip(y.chunks_exact_mut(step * s.ow * s.o)) {
            match &fours {
                Some(fours) => slide.image::<V>(row / s.oh, fours, w, Start::of(bias), y),
                None => slide.row::<V>(row, w, Start::of(bias), rectifier, y),
            }
            if with_moments {
                moments.add::<V>(y, s.o);
            }
        }
        moments
    }
}
