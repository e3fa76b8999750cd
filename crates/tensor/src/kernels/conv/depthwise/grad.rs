//! (conv.2) and (conv.3) of depthwise kernels, row by row.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use super::super::window::{Rows, Window};
use super::super::{BackwardTask, Sizes};
use super::landing::{Landing, Row};
use super::{Epilogue, Gather, Pixels, Tap, input_window, of_known_rows, three};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::moments::Sums;
use crate::kernels::pending::{Finisher, GradLoader, Loader, Masking};
use crate::kernels::tile::{lanes, store_lanes};
use crate::simd::{Kernel, Vector};

/// An input that knows what its maker wants of its gradient.
pub(in super::super) trait Input<T: Real>: Rows<T> + Sized {
    type Sums: Send;
    /// What masks the gradient of row `row`.
    fn masking<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize) -> Masking<'_, T>;
    /// Takes in row `row` of the masked gradient, `d`, and the sums of (pend.2) as far as they are in `sums`, from which it
    /// may take them. Where rows lie [in memory](Rows::IN_MEMORY) `d` may be empty, for it may be streamed past the caches.
    fn take_in<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize, d: &[T], sums: &mut RowSums<T>);
    /// All that was taken in.
    fn sums(self, rest: RowSums<T>) -> Self::Sums;
}

/// The sums of (pend.2) over some rows, in `T`.
pub(in super::super) struct RowSums<T> {
    /// Σ dŷ and Σ dŷ·(z − mean), in whole vectors.
    pub sums: [Aligned<T>; 2],
    pixels: usize,
}

impl<T: Real> RowSums<T> {
    pub fn zeros(c: usize) -> Self {
        RowSums { sums: [(); 2].map(|()| Aligned::zeros(c.next_multiple_of(16))), pixels: 0 }
    }

    pub fn clear(&mut self) {
        self.sums.iter_mut().for_each(|sums| sums.fill(T::zero()));
        self.pixels = 0;
    }

    /// Adds to the channels from `at` on, whole vectors: behind the last channel lie zeros.
    #[inline(always)]
    pub fn add_vectors<V: Vector<T>>(&mut self, at: usize, vectors: [V; 2]) {
        for (sums, of_row) in self.sums.iter_mut().zip(vectors) {
            let sums = sums[at..at + V::LANES].as_mut_ptr();
            // SAFETY: there are as many.
            unsafe { V::load(sums).add(of_row).store(sums) };
        }
    }

    fn move_to(&mut self, total: &mut Sums) {
        for (sums, total) in self.sums.iter().zip([&mut total.first, &mut total.second]) {
            total.iter_mut().zip(&sums[..]).for_each(|(total, sum)| *total += sum.f64());
        }
        self.clear();
    }
}

/// A map, and the sums of its gradient, (pend.2).
pub(in super::super) struct Map<'a, T>(pub &'a Loader<'a, T>, pub Sums);

impl<T: Real> Rows<T> for Map<'_, T> {
    const IN_MEMORY: bool = true;

    fn channels(&self) -> usize {
        self.0.channels()
    }

    #[inline(always)]
    fn make<V: Vector<T>>(&mut self, row: usize, pixels: usize, _slot: usize, out: &mut [T]) {
        // Without asking: that is done while the rows above are masked, not for all of a row at once.
        self.0.load::<V>(row * pixels, pixels, None, out, self.0.c);
    }
}

/// Pixels summed in `T`.
const BLOCK: usize = 64;

impl<T: Real> Input<T> for Map<'_, T> {
    type Sums = Sums;

    #[inline(always)]
    fn masking<V: Vector<T>>(rows: &mut Window<T, Self>, row: usize) -> Masking<'_, T> {
        rows.source.0.masking(row * rows.pixels, rows.pixels)
    }

    #[inline(always)]
    fn take_in<V: Vector<T>>(rows: &mut Window<T, Self>, _row: usize, _d: &[T], sums: &mut RowSums<T>) {
        sums.pixels += rows.pixels;
        if sums.pixels >= BLOCK {
            sums.move_to(&mut rows.source.1);
        }
    }

    fn sums(mut self, mut rest: RowSums<T>) -> Sums {
        rest.move_to(&mut self.1);
        self.1
    }
}

/// Masks the gradient of a row and sums it up.
struct Mask<'a, T, const NORM: bool> {
    of: Masking<'a, T>,
    c: usize,
    /// How far behind a pixel of the map the memory lies that is asked for.
    ahead: Option<usize>,
    sums: &'a mut RowSums<T>,
}

impl<T: Real, const NORM: bool> Epilogue<T> for Mask<'_, T, NORM> {
    type Held<V: Vector<T>> = Finisher<V, NORM>;

    #[inline(always)]
    unsafe fn begin<V: Vector<T>, const FULL: bool>(&mut self, at: usize, n: usize) -> Finisher<V, NORM> {
        // SAFETY: the caller's promise.
        unsafe { Finisher::new::<T, FULL>(&self.of, at, n) }
    }

    #[inline(always)]
    unsafe fn apply<V: Vector<T>, const FULL: bool, const R: usize>(
        &mut self,
        finisher: &mut Finisher<V, NORM>,
        Pixels { first, step, at, n }: Pixels,
        mut sums: [V; R],
    ) -> [V; R] {
        // SAFETY: the caller's promise; z holds the row.
        unsafe {
            let mut z = self.of.z.as_ptr().add(first * self.c + at);
            for r in 0..R {
                if let Some(ahead) = self.ahead {
                    V::prefetch(z.wrapping_add(ahead));
                }
                sums[r] = finisher.pixel(lanes::<T, V, FULL>(z, n), sums[r], r % 2);
                z = z.wrapping_add(step * self.c);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn end<V: Vector<T>, const FULL: bool>(&mut self, finisher: Finisher<V, NORM>, at: usize, _n: usize) {
        self.sums.add_vectors::<V>(at, finisher.sums());
    }
}

/// (conv.2) and (conv.3) for some images, row by row: what the input and the gradient are made to serves both.
pub(in super::super) struct Backward<'a, T: Real, X>(pub BackwardTask<'a, T, X>);

impl<T: Real, X: Input<T>> Kernel<T> for Backward<'_, T, X> {
    type Output = X::Sums;
    const KNOWING: bool = X::KNOWN != 0;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> X::Sums {
        let BackwardTask { s, x, dy, w, images, mut dx, mut dw } = self.0;
        let s = &of_known_rows::<T, X>(s);
        if const { three::suits::<T, V>() } && three::fits::<T, V>(s) {
            return three::backward::<T, V, X>(s, x, dy, w, images, dx, dw);
        }
        let (mut rows, mut columns) = (input_window(s, x), Columns::new(s, dy));
        let (first, len, mut sums) = (images.start * s.h, s.w * s.c, RowSums::zeros(s.c));
        let mut landing = Landing::new::<V>(s, dx.as_deref().unwrap_or_default(), !X::IN_MEMORY);
        // The first row that the kernel does not reach yet where the gradient is made.
        let ahead = X::IN_MEMORY.then_some(s.reach() * len);
        for n in images {
            let mut done = 0;
            for h in 0..=s.h {
                let here = dx.as_mut().filter(|_| h < s.h);
                if let Some(dw) = &mut dw {
                    // The output rows that have come into reach of row h; behind the last one, and without `dx`, all.
                    while done < s.oh && (here.is_none() || done * s.geo.stride[0] <= h + s.geo.padding[0]) {
                        row_grad_w::<T, V>(s, &mut rows, columns.row::<V>(n * s.oh + done), n, done, dw);
                        done += 1;
                    }
                }
                let Some(dx) = here else { break };
                let row = n * s.h + h;
                let d = &mut dx[(row - first) * len..][..len];
                let to = landing.row(d);
                let (of, c, taken) = (X::masking::<V>(&mut rows, row), s.c, &mut sums);
                assert!(of.z.len() == len);
                if of.norm.is_some() {
                    let mask = &mut Mask::<T, true> { of, c, ahead, sums: taken };
                    row_grad_x::<T, V>(s, &mut columns, w, [n, h], to, mask);
                } else {
                    let mask = &mut Mask::<T, false> { of, c, ahead, sums: taken };
                    row_grad_x::<T, V>(s, &mut columns, w, [n, h], to, mask);
                }
                X::take_in::<V>(&mut rows, row, landing.written(d), &mut sums);
            }
        }
        rows.source.sums(sums)
    }
}

/// (conv.2) of row `i` of image `n`, whose gradient is `dz`, added to the tap-major `dw`.
#[inline(always)]
fn row_grad_w<T: Real, V: Vector<T>>(
    s: &Sizes,
    rows: &mut Window<T, impl Rows<T>>,
    dz: *const T,
    n: usize,
    i: usize,
    dw: &mut [T],
) {
    let (c, d) = (s.c, s.geo.dilation[1]);
    for u in 0..s.kh {
        let Some(h) = s.row_under(i, u) else { continue };
        let line = rows.row::<V>(n * s.h + h);
        let mut v = 0;
        while v < s.kw {
            let dw = dw[(u * s.kw + v) * c..].as_mut_ptr();
            let line = line.wrapping_add(v * d * c);
            // SAFETY: every patch lies inside its padded row, `dz` is a row, `dw` holds the taps from `v` on.
            unsafe {
                if v + 3 <= s.kw {
                    taps_grad_w::<T, V, 3>(s, line, dz, dw);
                    v += 3;
                } else {
                    taps_grad_w::<T, V, 1>(s, line, dz, dw);
                    v += 1;
                }
            }
        }
    }
}

/// One row's part of the gradients of TAPS taps side by side.
///
/// # Safety
/// `line` must reach every patch of the row, `dz` hold the row, `dw` TAPS vectors of C.
#[inline(always)]
unsafe fn taps_grad_w<T: Real, V: Vector<T>, const TAPS: usize>(s: &Sizes, line: *const T, dz: *const T, dw: *mut T) {
    for at in (0..s.c).step_by(V::LANES) {
        let n = V::LANES.min(s.c - at);
        // SAFETY: the caller's promise; `at + n ≤ C`.
        unsafe {
            if n == V::LANES {
                channels_grad_w::<T, V, TAPS, true>(s, line, dz, dw, at, n);
            } else {
                channels_grad_w::<T, V, TAPS, false>(s, line, dz, dw, at, n);
            }
        }
    }
}

#[inline(always)]
unsafe fn channels_grad_w<T: Real, V: Vector<T>, const TAPS: usize, const FULL: bool>(
    s: &Sizes,
    line: *const T,
    dz: *const T,
    dw: *mut T,
    at: usize,
    n: usize,
) {
    let (c, step) = (s.c, s.geo.stride[1] * s.c);
    let tap_step = s.geo.dilation[1] * c;
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(T::zero());
        // Two sums a tap: an addition need not wait for the one before it.
        let mut sums: [[V; 2]; TAPS] = std::array::from_fn(|v| [lanes::<T, V, FULL>(dw.add(v * c + at), n), zero]);
        for pair in (0..s.ow).step_by(2) {
            for half in 0..2 {
                let j = pair + half;
                if j == s.ow {
                    break;
                }
                let dz = lanes::<T, V, FULL>(dz.add(j * c + at), n);
                for v in 0..TAPS {
                    let x = lanes::<T, V, FULL>(line.add(j * step + v * tap_step + at), n);
                    sums[v][half] = x.mul_add(dz, sums[v][half]);
                }
            }
        }
        for v in 0..TAPS {
            store_lanes::<T, V, FULL>(sums[v][0].add(sums[v][1]), dw.add(v * c + at), n);
        }
    }
}

/// The rows of the output's gradient with zeros around them, as (conv.3) gathers from them.
///
/// The columns `w = r + q·s` of one remainder r are read by the same taps v, at output column `q + (r + p − v·d)/s`.
pub(super) struct Columns<'a, T> {
    window: Window<T, &'a GradLoader<'a, T>>,
    /// Elements of the zeros on the left.
    left: usize,
    /// The taps v of each remainder: where their weights lie in a row of taps, and their output column for q = 0 in a row.
    of_remainders: Vec<Vec<(usize, isize)>>,
    /// Likewise the taps u that reach the rows of each remainder: where their weights begin, and their output row for q = 0.
    of_row_remainders: Vec<Vec<(usize, isize)>>,
    /// For the rows above one of the input, their row of taps and the first pixel, and for the taps of a sum.
    lines: Vec<(*const T, *const T)>,
    taps: Vec<Tap<T>>,
}

impl<'a, T: Real> Columns<'a, T> {
    pub fn new(s: &Sizes, dy: &'a GradLoader<'a, T>) -> Self {
        let [stride, p, d] = [s.geo.stride, s.geo.padding, s.geo.dilation];
        let left = (s.kw - 1) * d[1] / stride[1] + 1;
        let right = ((s.w + p[1]).saturating_sub(1) / stride[1] + 1).saturating_sub(s.ow);
        // The output rows that read one input row are at most this far apart.
        let height = (s.kh - 1) * d[0] / stride[0] + 1;
        // Of an axis: each tap that reaches a remainder, and the first output that it reaches it from.
        let of_remainders = |axis: usize, taps: usize, extent: usize| -> Vec<Vec<(usize, isize)>> {
            let step = stride[axis] as isize;
            let of_remainder = |r: usize| {
                let taps = (0..taps).map(|v| (v, (r + p[axis]) as isize - (v * d[axis]) as isize));
                taps.filter(|(_, at)| at.rem_euclid(step) == 0).map(|(v, at)| (v, at.div_euclid(step))).collect()
            };
            (0..stride[axis].min(extent)).map(of_remainder).collect()
        };
        let elements =
            |taps: Vec<(usize, isize)>| taps.into_iter().map(|(v, column)| (v * s.c, column * s.c as isize)).collect();
        Columns {
            window: Window::new(dy, s.ow, [left, right], height),
            left: left * s.c,
            of_remainders: of_remainders(1, s.kw, s.w).into_iter().map(elements).collect(),
            of_row_remainders: of_remainders(0, s.kh, s.h),
            lines: Vec::with_capacity(s.kh),
            taps: Vec::with_capacity(s.kh * s.kw),
        }
    }

    /// The first pixel of row i of image n, if it is inside.
    #[inline(always)]
    pub fn line<V: Vector<T>>(&mut self, s: &Sizes, n: usize, i: usize) -> Option<*const T> {
        if i < s.oh { Some(self.row::<V>(n * s.oh + i)) } else { None }
    }

    /// The first pixel of row `row` of the batch.
    #[inline(always)]
    fn row<V: Vector<T>>(&mut self, row: usize) -> *const T {
        self.window.row::<V>(row).wrapping_add(self.left)
    }
}

/// (conv.3) for row h of image n.
#[inline(always)]
fn row_grad_x<T: Real, V: Vector<T>>(
    s: &Sizes,
    columns: &mut Columns<'_, T>,
    w: &[T],
    [n, h]: [usize; 2],
    dx: Row<T>,
    epilogue: &mut impl Epilogue<T>,
) {
    let c = s.c;
    let stride = columns.of_row_remainders.len();
    let (q, r) = (h / stride, h % stride);
    columns.lines.clear();
    for tap in 0..columns.of_row_remainders[r].len() {
        let (u, i) = columns.of_row_remainders[r][tap];
        let Some(i) = q.checked_add_signed(i).filter(|&i| i < s.oh) else { continue };
        let line = columns.row::<V>(n * s.oh + i);
        columns.lines.push((w[u * s.kw * c..].as_ptr(), line));
    }
    let Columns { of_remainders, lines, taps, .. } = columns;
    for (r, of_remainder) in of_remainders.iter().enumerate() {
        taps.clear();
        for &(w, line) in &*lines {
            let tap = |&(v, column): &_| Tap { x: line.wrapping_offset(column), w: w.wrapping_add(v) };
            taps.extend(of_remainder.iter().map(tap));
        }
        let gather = Gather {
            taps,
            x_step: c,
            first: r,
            step: s.geo.stride[1],
            count: (s.w - r).div_ceil(s.geo.stride[1]),
            row: dx,
            bias: None,
        };
        // SAFETY: the zeros around the rows reach as far as the taps do, `dx` holds a row of the input.
        unsafe { gather.run::<V>(c, epilogue) };
    }
}
