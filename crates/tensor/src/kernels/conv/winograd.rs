//! 3x3 kernels by Winograd's minimal filtering, F(2x2, 3x3): a tile of 2x2 outputs from the 4x4 inputs under it takes
//! sixteen products a pair of channels, where (conv.1) takes thirty-six. What it adds are sums, which processors that
//! add beside their multiply-adds have to spare.
//! ```text
//! Y  = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A      summed over c before Aᵀ and A      (wino.1)
//! dg = Gᵀ [(Bᵀ d B) ⊙ (A dY Aᵀ)] G     summed over tiles before Gᵀ and G  (wino.2)
//!
//!      ⎡ 1  0 -1  0 ⎤        ⎡ 1   0   0 ⎤
//! Bᵀ = ⎢ 0  1  1  0 ⎥    G = ⎢ ½   ½   ½ ⎥    Aᵀ = ⎡ 1  1  1  0 ⎤
//!      ⎢ 0 -1  1  0 ⎥        ⎢ ½  -½   ½ ⎥         ⎣ 0  1 -1  1 ⎦
//!      ⎣ 0  1  0 -1 ⎦        ⎣ 0   0  -1 ⎦
//! ```
//! (conv.3) is (wino.1) with the kernels turned around. Row ξ and column ν of a 4x4 matrix are its *frequency* (ξ, ν).
//!
//! A value that is not finite reaches all outputs of its tiles, not only those whose taps it lies under: it is seen either
//! way, in more places.

#![allow(unsafe_code, reason = "vectors are loaded and stored through raw pointers")]

mod grad;
#[cfg(test)]
mod tests;
mod tiles;

pub(super) use grad::{Backward, from_panel};
use tiles::{Tiles, View};

use super::window::Rows;
use super::{ForwardTask, Geometry, Sizes};
use crate::Real;
use crate::aligned::Aligned;
use crate::kernels::moments::RowMoments;
use crate::kernels::pending::Rectifier;
use crate::kernels::tile::{Start, panel_row, store};
use crate::simd::{Kernel, Vector, registers};

/// Products of channels up to which all frequencies of the kernels stay in the second cache.
const CHANNELS: usize = 128 * 128;
/// Outputs of a row from which what is done for a row is worth it.
const PIXELS: usize = 16;

/// Whether a convolution of `T` is computed here, rather than as a product that reads patches: with 3x3 kernels for all
/// samples, one output after the other, in whole tiles, where that takes less time. With sixteen registers it does not.
// ANCHOR: pays
pub(super) fn pays<T: Real>(s: &Sizes) -> bool {
    fits(s) && s.ow >= PIXELS && s.c * s.o <= CHANNELS && registers::<T>() >= 32
}
// ANCHOR_END: pays

/// Whether it can be.
fn fits(s: &Sizes) -> bool {
    let Geometry { stride, padding, dilation, groups } = s.geo;
    [s.kh, s.kw] == [3; 2]
        && [stride, dilation] == [[1; 2]; 2]
        && groups == 1
        && padding.iter().all(|&p| p <= 2)
        && [s.oh, s.ow].iter().all(|extent| extent % 2 == 0)
        && !s.per_sample
}

/// Elements of the kernels of a convolution of `c` channels to `o` as `fill_panel` makes them.
pub(super) fn panel_len(c: usize, o: usize) -> usize {
    16 * c * panel_row(o)
}

/// Row `i` of `G g`, a row of G for three elements of g.
fn by_g<T: Real>(i: usize, [g0, g1, g2]: [T; 3]) -> T {
    let half = T::of(0.5);
    match i {
        0 => g0,
        1 => half * (g0 + g1 + g2),
        2 => half * (g0 - g1 + g2),
        _ => -g2,
    }
}

/// `G g Gᵀ` of kernels whose tap is `g(o, u, v, c)`, a panel `[4·4·C, O]`, in memory that is empty or held one.
fn fill_panel<T: Real>(c: usize, o: usize, g: impl Fn(usize, usize, usize, usize) -> T, panel: &mut Aligned<T>) {
    let row = panel_row(o);
    panel.lengthen(panel_len(c, o));
    for channel in 0..c {
        for of in 0..o {
            for xi in 0..4 {
                // A row of G g, from each of its columns.
                let row_of = [0, 1, 2].map(|v| by_g(xi, [0, 1, 2].map(|u| g(of, u, v, channel))));
                for nu in 0..4 {
                    panel[((xi * 4 + nu) * c + channel) * row + of] = by_g(nu, row_of);
                }
            }
        }
    }
}

/// The kernels `w [O,3,3,C]` as (wino.1) reads them.
pub(super) fn fill_forward_panel<T: Real>(s: &Sizes, w: &[T], panel: &mut Aligned<T>) {
    fill_panel(s.c, s.o, |o, u, v, c| w[((o * 3 + u) * 3 + v) * s.c + c], panel);
}

/// The same turned around, from O channels to C, for (conv.3).
pub(super) fn fill_turned_panel<T: Real>(s: &Sizes, w: &[T], panel: &mut Aligned<T>) {
    fill_panel(s.o, s.c, |c, u, v, o| w[((o * 3 + 2 - u) * 3 + 2 - v) * s.c + c], panel);
}

/// (wino.1) for row `row` of tiles, counted over the batch: two rows of the output `y`, O channels each.
// ANCHOR: wino
#[inline(always)]
fn forward<T: Real, V: Vector<T>>(
    tiles: &mut Tiles<T, impl Rows<T>>,
    row: usize,
    (panel, o): (&[T], usize),
    start: Start<T>,
    rectifier: Rectifier,
    y: &mut [T],
) {
    let view = tiles.make::<V>(row);
    let count = view.tiles;
    assert!(y.len() == 4 * count * o && panel.len() >= panel_len(view.c, o));
    for at in (0..o).step_by(V::LANES) {
        let mut tile = 0;
        while tile < count {
            let out = Out { y: y.as_mut_ptr(), panel: panel.as_ptr(), o, at, start, rectifier };
            // SAFETY: the tiles and the lanes lie inside the output and the panel.
            unsafe {
                // Three tiles are 24 registers: twelve sums of a row of frequencies, twelve outputs.
                match count - tile {
                    3 | 5.. => tile += out.tiles_from::<V, 3>(view, tile),
                    2.. => tile += out.tiles_from::<V, 2>(view, tile),
                    _ => tile += out.tiles_from::<V, 1>(view, tile),
                }
            }
        }
    }
}
// ANCHOR_END: wino

/// Where outputs go, and what they are made with.
#[derive(Clone, Copy)]
struct Out<T> {
    y: *mut T,
    panel: *const T,
    o: usize,
    /// The first of a vector of channels.
    at: usize,
    start: Start<T>,
    rectifier: Rectifier,
}

impl<T: Real> Out<T> {
    /// `N` tiles from `tile` on; returns N.
    #[inline(always)]
    unsafe fn tiles_from<V: Vector<T>, const N: usize>(self, view: View<T>, tile: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe {
            match view.c {
                3 if V::KNOWS => self.tiles::<V, N, 3>(view, tile),
                _ => self.tiles::<V, N, 0>(view, tile),
            }
        }
        N
    }

    #[inline(always)]
    unsafe fn tiles<V: Vector<T>, const N: usize, const C: usize>(self, view: View<T>, tile: usize) {
        let (o, width) = (self.o, V::LANES.min(self.o - self.at));
        let line = 2 * view.tiles * o; // of outputs
        // SAFETY: the caller's promise.
        unsafe {
            let start = match self.start {
                Start::Bias(bias) => V::load(bias.add(self.at)),
                _ => V::splat(T::zero()),
            };
            let y = self.y.add(2 * tile * o + self.at);
            let mut outputs = [[[start; 2]; 2]; N];
            self.frequencies::<V, N, C, 0>(view, tile, &mut outputs);
            self.frequencies::<V, N, C, 1>(view, tile, &mut outputs);
            self.frequencies::<V, N, C, 2>(view, tile, &mut outputs);
            self.frequencies::<V, N, C, 3>(view, tile, &mut outputs);
            let [low, high] = self.rectifier.bounds::<T>().map(V::splat);
            for t in 0..N {
                for i in 0..2 {
                    for j in 0..2 {
                        let mut output = outputs[t][i][j];
                        if self.rectifier != Rectifier::Identity {
                            output = output.max(low).min(high);
                        }
                        let to = y.add(i * line + (2 * t + j) * o);
                        store(output, to, width);
                        V::prefetch_write(to.wrapping_add(2 * line)); // where the tile below will go
                    }
                }
            }
        }
    }

    /// What the frequencies of row `XI` add to the outputs of N tiles.
    #[inline(always)]
    unsafe fn frequencies<V: Vector<T>, const N: usize, const C: usize, const XI: usize>(
        &self,
        view: View<T>,
        tile: usize,
        outputs: &mut [[[V; 2]; 2]; N],
    ) {
        let c = if C == 0 { view.c } else { C };
        let row = panel_row(self.o);
        // SAFETY: the caller's promise.
        unsafe {
            let inputs: [*const T; 4] = view.inputs(XI, tile);
            let mut kernels = self.panel.add(XI * 4 * c * row + self.at);
            let mut sums = [[V::splat(T::zero()); 4]; N];
            for channel in 0..c {
                for nu in 0..4 {
                    let kernel = V::load(kernels.add(nu * c * row));
                    for t in 0..N {
                        let input = V::splat(*inputs[nu].add(2 * t * c + channel));
                        sums[t][nu] = input.mul_add(kernel, sums[t][nu]);
                    }
                }
                kernels = kernels.wrapping_add(row);
            }
            for t in 0..N {
                let [m0, m1, m2, m3] = sums[t];
                let y = [m0.add(m1).add(m2), m1.sub(m2).add(m3)];
                for j in 0..2 {
                    let [top, bottom] = [outputs[t][0][j], outputs[t][1][j]];
                    let [top, bottom] = match XI {
                        0 => [top.add(y[j]), bottom],
                        1 => [top.add(y[j]), bottom.add(y[j])],
                        2 => [top.add(y[j]), bottom.sub(y[j])],
                        _ => [top, bottom.add(y[j])],
                    };
                    (outputs[t][0][j], outputs[t][1][j]) = (top, bottom);
                }
            }
        }
    }
}

/// (conv.1) for some rows of the batch, two at a time.
pub(super) struct Forward<'a, T: Real>(pub ForwardTask<'a, T>);

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Output = RowMoments<T>;

    #[inline(always)]
    fn run<V: Vector<T>>(self) -> RowMoments<T> {
        let ForwardTask { s, x, w, bias, rectifier, rows, y, with_moments } = self.0;
        let mut moments = RowMoments::none(s.o);
        let mut tiles = Tiles::new(x, [s.h, s.w], [s.oh, s.ow], s.geo.padding);
        let pairs = rows.start / 2..rows.end / 2;
        for (row, y) in pairs.zip(y.chunks_exact_mut(2 * s.ow * s.o)) {
            forward::<T, V>(&mut tiles, row, (w, s.o), Start::of(bias), rectifier, y);
            if with_moments {
                moments.add::<V>(y, s.o);
            }
        }
        moments
    }
}
