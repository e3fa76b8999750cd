//! (conv.2) and (conv.3) by (wino.2) and (wino.1).

#![allow(unsafe_code, reason = "vectors are loaded and stored through raw pointers")]

use super::super::{BackwardTask, Sizes};
use super::{Tiles, View, forward, panel_len};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::ahead::Ahead;
use crate::kernels::moments::Sums;
use crate::kernels::pending::{GradLoader, Loader, Rectifier};
use crate::kernels::tile::{Start, panel_row};
use crate::simd::{Kernel, Vector};

/// `dw [O,3,3,C]` from the panel of its frequencies: `Gᵀ … G`.
pub(in super::super) fn from_panel<T: Real>(s: &Sizes, panel: &[T], dw: &mut [T]) {
    let row = panel_row(s.o);
    for o in 0..s.o {
        for c in 0..s.c {
            let frequency = |xi: usize, nu: usize| panel[((xi * 4 + nu) * s.c + c) * row + o];
            let rows = [0, 1, 2, 3].map(|xi| turned_g([0, 1, 2, 3].map(|nu| frequency(xi, nu))));
            for v in 0..3 {
                let column = turned_g([0, 1, 2, 3].map(|xi| rows[xi][v]));
                for u in 0..3 {
                    dw[((o * 3 + u) * 3 + v) * s.c + c] = column[u];
                }
            }
        }
    }
}

/// `Gᵀ d`.
fn turned_g<T: Real>(d: [T; 4]) -> [T; 3] {
    let half = T::of(0.5);
    [d[0] + half * (d[1] + d[2]), half * (d[1] - d[2]), half * (d[1] + d[2]) - d[3]]
}

/// (wino.2) for a row of tiles.
struct GradW<'a, T: Real> {
    s: &'a Sizes,
    dy: &'a GradLoader<'a, T>,
    tiles: Tiles<T, &'a Loader<'a, T>>,
    /// Two rows of `dy`.
    dz: Aligned<T>,
}

impl<T: Real> GradW<'_, T> {
    /// Adds what row `row` of tiles gives to the panel `dw`.
    #[inline(always)]
    fn add<V: Vector<T>>(&mut self, row: usize, dw: &mut [T]) {
        let (s, o_row) = (self.s, panel_row(self.s.o));
        let pixels = 2 * s.ow;
        self.dz.lengthen(pixels * o_row);
        self.dy.load::<V>(row * pixels, pixels, &mut self.dz, o_row);
        let view = self.tiles.make::<V>(row);
        assert!(dw.len() >= panel_len(s.c, s.o) && 2 * view.tiles == s.ow);
        let steps = 4 * view.tiles * (s.c / 3 + s.c % 3) * s.o.div_ceil(V::LANES);
        let mut ahead = Ahead::new(steps, self.dy.ahead(row * pixels, pixels), []);
        for at in (0..s.o).step_by(V::LANES) {
            let sums = FrequencySums { dz: self.dz[at..].as_ptr(), dw: dw[at..].as_mut_ptr(), row: o_row };
            let mut channel = 0;
            while channel < s.c {
                // SAFETY: the channels and lanes lie inside the panels.
                unsafe {
                    match s.c - channel {
                        3.. if V::KNOWS && s.c == 3 => channel += sums.rows::<V, 3, 3>(view, channel, &mut ahead),
                        3.. => channel += sums.rows::<V, 3, 0>(view, channel, &mut ahead),
                        _ => channel += sums.rows::<V, 1, 0>(view, channel, &mut ahead),
                    }
                }
            }
        }
    }
}

/// The sums over tiles of (wino.2).
#[derive(Clone, Copy)]
struct FrequencySums<T> {
    dz: *const T,
    dw: *mut T,
    /// How far apart the pixels of the one and the rows of the other lie.
    row: usize,
}

impl<T: Real> FrequencySums<T> {
    /// `N` channels from `channel` on; returns N.
    #[inline(always)]
    unsafe fn rows<V: Vector<T>, const N: usize, const C: usize>(
        self,
        view: View<T>,
        channel: usize,
        ahead: &mut Ahead<T, 2, 0>,
    ) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            self.frequencies::<V, N, C, 0>(view, channel, ahead);
            self.frequencies::<V, N, C, 1>(view, channel, ahead);
            self.frequencies::<V, N, C, 2>(view, channel, ahead);
            self.frequencies::<V, N, C, 3>(view, channel, ahead);
        }
        N
    }

    #[inline(always)]
    unsafe fn frequencies<V: Vector<T>, const N: usize, const C: usize, const XI: usize>(
        self,
        view: View<T>,
        channel: usize,
        ahead: &mut Ahead<T, 2, 0>,
    ) {
        let c = if C == 0 { view.c } else { C };
        // SAFETY: the caller's promise.
        unsafe {
            let dw = self.dw.add((XI * 4 * c + channel) * self.row);
            let mut sums = [[V::splat(T::zero()); N]; 4];
            for nu in 0..4 {
                for i in 0..N {
                    sums[nu][i] = V::load(dw.add((nu * c + i) * self.row));
                }
            }
            let mut inputs = view.inputs(XI, 0);
            let (mut top, mut bottom) = (self.dz, self.dz.add(2 * view.tiles * self.row));
            for _ in 0..view.tiles {
                ahead.ask::<V>();
                // A row of A dY.
                let left = combined::<T, V, XI>(top, bottom);
                let right = combined::<T, V, XI>(top.add(self.row), bottom.add(self.row));
                let d = [left, left.add(right), left.sub(right), right];
                for nu in 0..4 {
                    for i in 0..N {
                        let input = V::splat(*inputs[nu].add(channel + i));
                        sums[nu][i] = input.mul_add(d[nu], sums[nu][i]);
                    }
                }
                for input in &mut inputs {
                    *input = input.wrapping_add(2 * c);
                }
                (top, bottom) = (top.wrapping_add(2 * self.row), bottom.wrapping_add(2 * self.row));
            }
            for nu in 0..4 {
                for i in 0..N {
                    sums[nu][i].store(dw.add((nu * c + i) * self.row));
                }
            }
        }
    }
}

/// Row `XI` of A for a vector of the upper and one of the lower row of a tile.
#[inline(always)]
unsafe fn combined<T: Real, V: Vector<T>, const XI: usize>(top: *const T, bottom: *const T) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        match XI {
            0 => V::load(top),
            1 => V::load(top).add(V::load(bottom)),
            2 => V::load(top).sub(V::load(bottom)),
            _ => V::load(bottom),
        }
    }
}

/// (conv.2) and (conv.3) for some images.
pub(in super::super) struct Backward<'a, T: Real>(pub BackwardTask<'a, T>);

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Output = Sums;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> Sums {
        let BackwardTask { s, x, dy, w, images, dx, mut dw } = self.0;
        let mut sums = Sums::zeros(s.c);
        let padding = s.geo.padding;
        let mut grad_w =
            GradW { s, dy, tiles: Tiles::new(x, [s.h, s.w], [s.oh, s.ow], padding), dz: Aligned::default() };
        let mut grad_x = dx.map(|dx| (Tiles::new(dy, [s.oh, s.ow], [s.h, s.w], padding.map(|p| 2 - p)), dx));
        // Image by image: what the one reads the other finds in the cache.
        for image in images.clone() {
            if let Some(dw) = &mut dw {
                for row in image * s.oh / 2..(image + 1) * s.oh / 2 {
                    grad_w.add::<V>(row, dw);
                }
            }
            let Some((tiles, dx)) = &mut grad_x else { continue };
            let pair = 2 * s.w * s.c;
            for row in image * s.h / 2..(image + 1) * s.h / 2 {
                let dx = &mut dx[(row - images.start * s.h / 2) * pair..][..pair];
                forward::<T, V>(tiles, row, (w, s.c), Start::Zero, Rectifier::Identity, dx);
                x.finish::<V>(row * 2 * s.w, dx, &mut sums);
            }
        }
        sums
    }
}
