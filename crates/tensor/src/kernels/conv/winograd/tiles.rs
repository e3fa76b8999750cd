//! `Bᵀ d B` of a row of tiles.
//!
//! Tiles overlap by two pixels. A difference or a sum of neighbouring pixels is made for every pixel of the row at once,
//! as vectors over pixels and channels: the frequencies of a tile are what they hold at its first and second pixel.

#![allow(unsafe_code, reason = "vectors are loaded and stored through raw pointers")]

use super::super::window::{Rows, Window};
use crate::Real;
use crate::aligned::Aligned;
use crate::simd::Vector;

/// The inputs of tiles as (wino.1) and (wino.2) read them, row by row of tiles.
pub(super) struct Tiles<T, R> {
    window: Window<T, R>,
    c: usize,
    /// Rows of an image, and of zeros above it.
    h: usize,
    top: usize,
    /// Rows of tiles of an image, and tiles of a row.
    tiles: [usize; 2],
    zeros: Aligned<T>,
    /// What [`between`] finds in each row of `Bᵀ d`, twelve lines.
    frequencies: Aligned<T>,
    /// Elements of a line.
    line: usize,
}

/// The frequencies of a row of tiles.
#[derive(Clone, Copy)]
pub(super) struct View<T> {
    first: *const T,
    line: usize,
    pub c: usize,
    pub tiles: usize,
}

impl<T: Real> View<T> {
    /// Where channel 0 of the frequencies (xi, 0..4) of tile `tile` lies; the next tile is two pixels further.
    #[inline(always)]
    pub fn inputs(self, xi: usize, tile: usize) -> [*const T; 4] {
        let first = self.first.wrapping_add(xi * 3 * self.line + 2 * tile * self.c);
        [0, self.line + self.c, 2 * self.line + self.c, self.c].map(|at| first.wrapping_add(at))
    }
}

impl<T: Real, R: Rows<T>> Tiles<T, R> {
    /// For images of `h × w` pixels with zeros around them.
    pub fn new(source: R, [h, w]: [usize; 2], [oh, ow]: [usize; 2], [top, left]: [usize; 2]) -> Self {
        let c = source.channels();
        let line = ((ow + 2) * c).next_multiple_of(16) + 16;
        Tiles {
            window: Window::new(source, w, [left; 2], 4),
            c,
            h,
            top,
            tiles: [oh / 2, ow / 2],
            zeros: Aligned::zeros(line),
            frequencies: Aligned::zeros(12 * line),
            line,
        }
    }

    /// Row `row` of tiles, counted over the batch.
    #[inline(always)]
    pub fn make<V: Vector<T>>(&mut self, row: usize) -> View<T> {
        let (c, line) = (self.c, self.line);
        let (n, i) = (row / self.tiles[0], row % self.tiles[0]);
        let mut d = [self.zeros.as_ptr(); 4];
        for (u, d) in d.iter_mut().enumerate() {
            let h = (2 * i + u).wrapping_sub(self.top);
            if h < self.h {
                *d = self.window.row::<V>(n * self.h + h);
            }
        }
        let frequencies = self.frequencies.as_mut_ptr();
        let pixels = 2 * self.tiles[1];
        // SAFETY: a row of the window holds two pixels more than there are outputs, and a vector behind them can be read; a
        // line has room for a vector more.
        unsafe {
            for at in (0..pixels * c).step_by(V::LANES) {
                let d = [
                    between::<T, V>(d[0].add(at), c),
                    between::<T, V>(d[1].add(at), c),
                    between::<T, V>(d[2].add(at), c),
                    between::<T, V>(d[3].add(at), c),
                ];
                let to = frequencies.add(at);
                for kind in 0..3 {
                    d[0][kind].sub(d[2][kind]).store(to.add(kind * line));
                    d[1][kind].add(d[2][kind]).store(to.add((3 + kind) * line));
                    d[2][kind].sub(d[1][kind]).store(to.add((6 + kind) * line));
                    d[1][kind].sub(d[3][kind]).store(to.add((9 + kind) * line));
                }
            }
        }
        View { first: frequencies, line, c, tiles: self.tiles[1] }
    }
}

/// x_i − x_{i+2}, x_i + x_{i+1} and x_{i+1} − x_i for pixels of `c` channels from `x` on.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn between<T: Real, V: Vector<T>>(x: *const T, c: usize) -> [V; 3] {
    // SAFETY: the caller's promise.
    unsafe {
        let [x0, x1, x2] = [V::load(x), V::load(x.add(c)), V::load(x.add(2 * c))];
        [x0.sub(x2), x0.add(x1), x1.sub(x0)]
    }
}
