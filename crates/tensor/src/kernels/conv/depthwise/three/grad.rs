//! (conv.2) and (conv.3), both for a pixel while it is in registers.
//!
//! A pixel (h, w) of the input is read by the outputs i, j and the taps u, v with i·s + u − 1 = h and j·s + v − 1 = w. At stride
//! 1 these are all taps; at stride 2 it is tap 1 alone where h is even, taps 2 and 0 of two outputs where it is odd, and w
//! likewise.

#![allow(unsafe_code, reason = "vectors are loaded through raw pointers")]

use std::ops::Range;

use super::super::super::Sizes;
use super::super::grad::{Columns, Input, RowSums};
use super::super::input_window;
use super::super::landing::{Landing, Row};
use super::has_rest;
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::pending::{Finisher, GradLoader, Masking, Read};
use crate::kernels::tile::{lanes, store_lanes};
use crate::simd::Vector;

/// Both gradients for some images. They come together, and what nobody wants is thrown away: the one has the same bits with the
/// other and without.
#[inline(always)]
pub(in super::super) fn backward<T: Real, V: Vector<T>, X: Input<T>>(
    s: &Sizes,
    x: X,
    dy: &GradLoader<'_, T>,
    w: &[T],
    images: Range<usize>,
    mut dx: Option<&mut [T]>,
    dw: Option<&mut [T]>,
) -> X::Sums {
    let (mut rows, mut columns) = (input_window(s, x), Columns::new(s, dy));
    let (len, mut sums) = (s.w * s.c, RowSums::zeros(s.c));
    let without = |there: bool, len| if there { Aligned::default() } else { Aligned::zeros(len) };
    let (mut no_dx, mut no_dw) = (without(dx.is_some(), len), without(dw.is_some(), s.weights()));
    let no_w = without(dx.is_some(), s.weights());
    let (w, dw) = (if dx.is_some() { w } else { &no_w }, dw.unwrap_or(&mut no_dw));
    let mut landing = Landing::new::<V>(s, dx.as_deref().unwrap_or_default(), !X::IN_MEMORY);
    for (at, (n, h)) in images.flat_map(|n| (0..s.h).map(move |h| (n, h))).enumerate() {
        let wanted = dx.is_some();
        let d = match &mut dx {
            Some(dx) => &mut dx[at * len..][..len],
            None => &mut no_dx[..],
        };
        let (to, row) = (landing.row(d), n * s.h + h);
        let mut backward = Backward { of: X::masking::<V>(&mut rows, row), w, dw, dx: to, sums: &mut sums };
        // SAFETY: the lines are rows of the output's gradient, `d` one of the input's.
        unsafe {
            if const { V::REGISTERS >= 32 } && s.geo.stride[0] == 1 {
                let above = if h > 0 { columns.line::<V>(s, n, h - 1) } else { None };
                let [here, below] = [columns.line::<V>(s, n, h), columns.line::<V>(s, n, h + 1)];
                backward.run::<V, X, 3>(s, [(here, 1), (above, 2), (below, 0)]);
            } else if h % 2 == 0 {
                backward.run::<V, X, 1>(s, [(columns.line::<V>(s, n, h / 2), 1)]);
            } else {
                let [here, below] = [columns.line::<V>(s, n, h / 2), columns.line::<V>(s, n, h / 2 + 1)];
                backward.run::<V, X, 2>(s, [(here, 2), (below, 0)]);
            }
        }
        if wanted {
            X::take_in::<V>(&mut rows, row, landing.written(d), &mut sums);
        }
    }
    rows.source.sums(sums)
}

/// A row of the input.
struct Backward<'a, T> {
    /// Its pixels, and what masks their gradient.
    of: Masking<'a, T>,
    /// The kernels, tap-major, and their gradients.
    w: &'a [T],
    dw: &'a mut [T],
    dx: Row<T>,
    sums: &'a mut RowSums<T>,
}

/// The rows of the output's gradient that read a row of the input, with zeros around them, each with the row of taps by which it
/// reads. One outside the image gives nothing; the first one is inside.
type Lines<T, const U: usize> = [(Option<*const T>, usize); U];

/// What a row of the output has to do with some channels of a row of the input: its weights, and the sums of their gradients.
#[derive(Clone, Copy)]
struct Line<T, V> {
    dz: *const T,
    w: [V; 3],
    dw: [V; 3],
}

impl<T: Real, V: Vector<T>> Line<T, V> {
    /// What the output `dz` gives to the pixel `x`, which it reads by tap `v`.
    #[inline(always)]
    fn take(&mut self, v: usize, dz: V, x: V, da: &mut V) {
        *da = dz.mul_add(self.w[v], *da);
        self.dw[v] = x.mul_add(dz, self.dw[v]);
    }
}

impl<T: Real> Backward<'_, T> {
    /// # Safety
    /// The lines must be rows of the output's gradient, the first one inside the image, and `dx` a row of the input's.
    #[inline(always)]
    unsafe fn run<V: Vector<T>, X: Input<T>, const U: usize>(&mut self, s: &Sizes, lines: Lines<T, U>) {
        assert!(self.of.z.len() == s.w * s.c && [self.w.len(), self.dw.len()] == [9 * s.c; 2]);
        for at in (0..s.c).step_by(V::LANES) {
            let n = V::LANES.min(s.c - at);
            // SAFETY: the caller's promise; `at + n ≤ C`.
            unsafe {
                match (n == V::LANES, self.of.norm.is_some()) {
                    (true, true) if X::IN_MEMORY => self.channels::<V, X, true, true, U>(s, &lines, at, n),
                    (true, _) => self.channels::<V, X, true, false, U>(s, &lines, at, n),
                    (false, true) if X::IN_MEMORY => self.channels::<V, X, false, true, U>(s, &lines, at, n),
                    (false, _) if const { has_rest::<T, V, X>() } => {
                        self.channels::<V, X, false, false, U>(s, &lines, at, n)
                    }
                    _ => unreachable!("channels that are known are whole vectors"),
                }
            }
        }
    }

    /// # Safety
    /// As [`run`](Self::run); `at + n ≤ C`, and n is a whole vector if `FULL`.
    #[inline(always)]
    unsafe fn channels<V: Vector<T>, X: Input<T>, const FULL: bool, const NORM: bool, const U: usize>(
        &mut self,
        s: &Sizes,
        outputs: &Lines<T, U>,
        at: usize,
        n: usize,
    ) {
        let (c, zero) = (s.c, V::splat(T::zero()));
        // SAFETY: the caller's promise.
        unsafe {
            let inside = outputs[0].0.expect("the first line is inside the image").add(at);
            // A line outside the image has no weight; the first one stands for it.
            let mut lines = [Line { dz: inside, w: [zero; 3], dw: [zero; 3] }; U];
            for l in 0..U {
                if let (Some(dz), u) = outputs[l] {
                    lines[l].dz = dz.add(at);
                    for v in 0..3 {
                        lines[l].w[v] = lanes::<T, V, FULL>(self.w.as_ptr().add((3 * u + v) * c + at), n);
                    }
                }
            }
            let mut finisher = Finisher::<V, NORM>::new::<T, FULL>(&self.of, at, n);
            let row = InputRow { z: self.of.z.as_ptr().add(at), dx: self.dx, count: s.w, c, at, n };
            if U == 3 {
                row.every::<V, X, FULL, NORM, U>(&mut lines, &mut finisher);
            } else {
                row.pairs::<V, X, FULL, NORM, U>(&mut lines, &mut finisher);
            }
            for l in 0..U {
                if let (Some(_), u) = outputs[l] {
                    for v in 0..3 {
                        let sum = self.dw.as_mut_ptr().add((3 * u + v) * c + at);
                        store_lanes::<T, V, FULL>(lanes::<T, V, FULL>(sum, n).add(lines[l].dw[v]), sum, n);
                    }
                }
            }
            self.sums.add_vectors::<V>(at, finisher.sums());
        }
    }
}

/// Some channels of a row of the input.
struct InputRow<T> {
    z: *const T,
    dx: Row<T>,
    count: usize,
    c: usize,
    at: usize,
    n: usize,
}

impl<T: Real> InputRow<T> {
    /// Pixel `w` as the convolution reads it. Asks for the one that lies two rows behind.
    ///
    /// # Safety
    /// It must be readable.
    #[inline(always)]
    unsafe fn read<V: Vector<T>, X: Input<T>, const FULL: bool, const NORM: bool>(
        &self,
        w: usize,
        finisher: &Finisher<V, NORM>,
    ) -> Read<V> {
        let z = self.z.wrapping_add(w * self.c);
        if X::IN_MEMORY {
            V::prefetch(z.wrapping_add(2 * self.count * self.c));
        }
        // SAFETY: the caller's promise.
        finisher.read(unsafe { lanes::<T, V, FULL>(z, self.n) })
    }

    /// Writes the gradient of pixel `w`.
    ///
    /// # Safety
    /// It must be writable.
    #[inline(always)]
    unsafe fn write<V: Vector<T>, const FULL: bool>(&self, w: usize, dy: V) {
        // SAFETY: the caller's promise.
        unsafe { self.dx.write::<V, FULL, 1>(w * self.c + self.at, self.c, [dy], self.n) };
    }

    /// At stride 2: an even pixel is read by one output of each line, an odd one by two.
    ///
    /// # Safety
    /// The row, and behind the lines all outputs that read it, must be readable, the gradient writable.
    // ANCHOR: pairs
    #[inline(always)]
    unsafe fn pairs<V: Vector<T>, X: Input<T>, const FULL: bool, const NORM: bool, const U: usize>(
        &self,
        lines: &mut [Line<T, V>; U],
        finisher: &mut Finisher<V, NORM>,
    ) {
        let InputRow { count, c, n, .. } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            let mut here = [V::splat(T::zero()); U];
            for l in 0..U {
                here[l] = lanes::<T, V, FULL>(lines[l].dz, n);
            }
            for even in (0..count).step_by(2) {
                let of = self.read::<V, X, FULL, NORM>(even, finisher);
                let mut da = V::splat(T::zero());
                for l in 0..U {
                    lines[l].take(1, here[l], of.x, &mut da);
                }
                self.write::<V, FULL>(even, finisher.finish(of, da, 0));
                if even + 1 == count {
                    break;
                }
                let of = self.read::<V, X, FULL, NORM>(even + 1, finisher);
                let mut da = V::splat(T::zero());
                for l in 0..U {
                    let next = lanes::<T, V, FULL>(lines[l].dz.add((even / 2 + 1) * c), n);
                    lines[l].take(2, here[l], of.x, &mut da);
                    lines[l].take(0, next, of.x, &mut da);
                    here[l] = next;
                }
                self.write::<V, FULL>(even + 1, finisher.finish(of, da, 1));
            }
        }
    }
    // ANCHOR_END: pairs

    /// At stride 1: every pixel is read by three outputs of each line.
    ///
    /// # Safety
    /// As [`pairs`](Self::pairs).
    #[inline(always)]
    unsafe fn every<V: Vector<T>, X: Input<T>, const FULL: bool, const NORM: bool, const U: usize>(
        &self,
        lines: &mut [Line<T, V>; U],
        finisher: &mut Finisher<V, NORM>,
    ) {
        let InputRow { count, c, n, .. } = *self;
        for pair in (0..count).step_by(2) {
            for half in 0..2 {
                let w = pair + half;
                if w == count {
                    break;
                }
                // SAFETY: the caller's promise.
                unsafe {
                    let of = self.read::<V, X, FULL, NORM>(w, finisher);
                    let mut da = V::splat(T::zero());
                    for l in 0..U {
                        for v in 0..3 {
                            let dz = lines[l].dz.wrapping_add((w + 1) * c).wrapping_sub(v * c);
                            lines[l].take(v, lanes::<T, V, FULL>(dz, n), of.x, &mut da);
                        }
                    }
                    self.write::<V, FULL>(w, finisher.finish(of, da, half));
                }
            }
        }
    }
}
