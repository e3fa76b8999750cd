//! The one inner loop of every dense convolution: a tile of outputs in registers, fed by broadcast elements of one
//! operand and vectors of the other. The other operand is a *panel*: its rows lie whole vectors wide.
//!
//! Our matrices are thin (16 to 64 columns, sums over 16 to 600 terms); packing both operands as a general GEMM does
//! would cost as much as the product.

#![allow(unsafe_code, reason = "the operands of a tile are raw pointers, checked by the callers")]

use super::ahead::Ahead;
use super::pending::Rectifier;
use super::transpose::transpose;
use crate::Real;
use crate::aligned::Aligned;
use crate::simd::{Vector, opaque};

/// `n ≤ LANES` elements.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub(crate) unsafe fn load<T: Real, V: Vector<T>>(from: *const T, n: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { if n == V::LANES { V::load(from) } else { V::load_first(from, n) } }
}

/// Stores the first `n ≤ LANES` elements.
///
/// # Safety
/// They must be writable.
#[inline(always)]
pub(crate) unsafe fn store<T: Real, V: Vector<T>>(vector: V, to: *mut T, n: usize) {
    // SAFETY: the caller's promise.
    unsafe { if n == V::LANES { vector.store(to) } else { vector.store_first(to, n) } }
}

/// [`load`] where the caller knows whether all lanes are meant.
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn lanes<T: Real, V: Vector<T>, const FULL: bool>(from: *const T, n: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { if FULL { V::load(from) } else { V::load_first(from, n) } }
}

/// [`store`] where the caller knows whether all lanes are meant.
///
/// # Safety
/// As [`store`].
#[inline(always)]
pub(crate) unsafe fn store_lanes<T: Real, V: Vector<T>, const FULL: bool>(vector: V, to: *mut T, n: usize) {
    // SAFETY: the caller's promise.
    unsafe { if FULL { vector.store(to) } else { vector.store_first(to, n) } }
}

/// How far apart the rows of a panel lie: whole vectors, whatever the vector.
pub(crate) fn panel_row(columns: usize) -> usize {
    columns.next_multiple_of(16)
}

/// A part of the sum of a product: `k` terms, from `a` and from the panel `b`.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<T> {
    /// Element (r, k) at `r · a_row + k · a_step`.
    pub a: *const T,
    /// Row k of the panel at `k · b_row`.
    pub b: *const T,
    pub k: usize,
}

/// What the accumulators start from.
#[derive(Clone, Copy)]
pub(crate) enum Start<T> {
    Zero,
    /// The same vector in every row, readable in whole vectors.
    Bias(*const T),
    /// What the output holds.
    Output,
}

impl<T> Start<T> {
    /// From a bias in whole vectors, if there is one.
    #[inline(always)]
    pub fn of(bias: Option<&[T]>) -> Self {
        bias.map_or(Start::Zero, |bias| Start::Bias(bias.as_ptr()))
    }
}

/// `out[r, o] = start + Σ_chunks Σ_k a[r, k] · b[k, o]`, rectified.
pub(crate) struct Product<T> {
    pub rows: usize,
    pub columns: usize,
    pub a_row: usize,
    pub a_step: usize,
    pub b_row: usize,
    pub start: Start<T>,
    pub out: *mut T,
    pub out_row: usize,
    pub rectifier: Rectifier,
}

impl<T: Real> Product<T> {
    /// # Safety
    /// Everything that the strides reach must be readable, the output writable; panel rows are read in whole vectors.
    // ANCHOR: product
    #[inline(always)]
    pub unsafe fn run<V: Vector<T>>(&self, chunks: &[Chunk<T>]) {
        // SAFETY: the caller's promise.
        unsafe { self.run_asking::<V, 0, 0>(chunks, Ahead::NOTHING) }
    }

    /// How many steps a product of `k` terms takes, about.
    #[inline(always)]
    pub fn steps<V: Vector<T>>(&self, k: usize) -> usize {
        let vectors = self.rows * self.columns.div_ceil(V::LANES);
        k * vectors.div_ceil(V::REGISTERS / 2)
    }

    /// [`run`](Self::run), asking for memory at each step.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    pub unsafe fn run_asking<V: Vector<T>, const AR: usize, const AW: usize>(
        &self,
        chunks: &[Chunk<T>],
        ahead: Ahead<T, AR, AW>,
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.run_fours::<V, AR, AW>(chunks, 4 * self.a_row, ahead) }
    }

    /// The same where rows of `a` come in fours, `fours` apart: two rows of an image that is four pixels wide are a tile.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    #[inline(always)]
    pub unsafe fn run_fours<V: Vector<T>, const AR: usize, const AW: usize>(
        &self,
        chunks: &[Chunk<T>],
        fours: usize,
        mut ahead: Ahead<T, AR, AW>,
    ) {
        let mut column = 0;
        while column < self.columns {
            let left = self.columns - column;
            // SAFETY: the caller's promise.
            unsafe {
                if left > V::LANES {
                    self.columns_from::<V, 2, AR, AW>(column, chunks, fours, &mut ahead);
                    column += 2 * V::LANES;
                } else {
                    self.columns_from::<V, 1, AR, AW>(column, chunks, fours, &mut ahead);
                    column += V::LANES;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn columns_from<V: Vector<T>, const NV: usize, const AR: usize, const AW: usize>(
        &self,
        column: usize,
        chunks: &[Chunk<T>],
        fours: usize,
        ahead: &mut Ahead<T, AR, AW>,
    ) {
        // As many accumulators as there are registers for; what is left over goes in ever smaller tiles.
        let wide = V::REGISTERS >= 32 && NV == 1;
        let few = V::REGISTERS < 32 && NV == 2;
        let even = fours == 4 * self.a_row;
        let narrow = few && even;
        let mut row = 0;
        while row < self.rows {
            let left = self.rows - row;
            // SAFETY: the caller's promise.
            unsafe {
                if wide && left >= 16 {
                    // Sixteen channels side by side: one pointer reaches all rows.
                    if even && self.a_row == 16 {
                        self.tile::<V, 16, NV, 16, AR, AW>(row, column, chunks, fours, ahead);
                    } else {
                        self.tile::<V, 16, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    }
                    row += 16;
                } else if wide && left == 9 {
                    self.tile::<V, 9, NV, 0, AR, AW>(row, column, chunks, fours, ahead); // a row of patches of three channels
                    row += 9;
                // Of sixteen registers six rows of two fill twelve; one row or two that are left over would fill few.
                } else if narrow && left >= 6 && !matches!(left % 6, 1 | 2) {
                    self.tile::<V, 6, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 6;
                } else if !few && left >= 8 {
                    self.tile::<V, 8, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 8;
                } else if left >= 4 {
                    self.tile::<V, 4, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 4;
                } else if narrow && left == 3 {
                    self.tile::<V, 3, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 3;
                } else if left >= 2 {
                    self.tile::<V, 2, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 2;
                } else {
                    self.tile::<V, 1, NV, 0, AR, AW>(row, column, chunks, fours, ahead);
                    row += 1;
                }
            }
        }
    }

    /// R x NV vectors of the output. `A_ROW` is `a_row` where it is known and `fours` is four of it, or 0.
    #[inline(always)]
    unsafe fn tile<
        V: Vector<T>,
        const R: usize,
        const NV: usize,
        const A_ROW: usize,
        const AR: usize,
        const AW: usize,
    >(
        &self,
        row: usize,
        column: usize,
        chunks: &[Chunk<T>],
        fours: usize,
        ahead: &mut Ahead<T, AR, AW>,
    ) {
        let width = |v: usize| V::LANES.min(self.columns - column - v * V::LANES);
        let mut sums = [[V::splat(T::zero()); NV]; R];
        // SAFETY: the caller's promise; `width` keeps to the columns of the output.
        unsafe {
            let out = self.out.add(row * self.out_row + column);
            for r in 0..R {
                for v in 0..NV {
                    sums[r][v] = match self.start {
                        Start::Zero => V::splat(T::zero()),
                        Start::Bias(bias) => V::load(bias.add(column + v * V::LANES)),
                        Start::Output => load(out.add(r * self.out_row + v * V::LANES), width(v)),
                    };
                }
            }
            for chunk in chunks {
                let (mut a, mut b) = (chunk.a.add(row / 4 * fours + row % 4 * self.a_row), chunk.b.add(column));
                for _ in 0..chunk.k {
                    let panel: [V; NV] = std::array::from_fn(|v| V::load(b.add(v * V::LANES)));
                    let mut rows = a;
                    ahead.ask::<V>();
                    for r in 0..R {
                        if A_ROW == 0 && r > 0 && r % 4 == 0 {
                            rows = opaque(rows.wrapping_add(fours));
                        }
                        let at = if A_ROW == 0 { r % 4 * self.a_row } else { r * A_ROW };
                        let element = V::splat(*rows.add(at));
                        for v in 0..NV {
                            sums[r][v] = element.mul_add(panel[v], sums[r][v]);
                        }
                    }
                    a = a.wrapping_add(self.a_step);
                    b = b.wrapping_add(self.b_row);
                }
            }
            if self.rectifier != Rectifier::Identity {
                let [low, high] = self.rectifier.bounds::<T>().map(V::splat);
                for r in 0..R {
                    for v in 0..NV {
                        sums[r][v] = sums[r][v].max(low).min(high);
                    }
                }
            }
            for r in 0..R {
                for v in 0..NV {
                    store(sums[r][v], out.add(r * self.out_row + v * V::LANES), width(v));
                }
            }
        }
    }
    // ANCHOR_END: product
}

/// Σ a ⊙ b over a row of a panel, as many sums as a vector has elements.
///
/// # Safety
/// `len` elements, whole vectors, must be readable.
#[inline(always)]
pub(crate) unsafe fn row_product<T: Real, V: Vector<T>>(a: *const T, b: *const T, len: usize) -> V {
    let mut sum = V::splat(T::zero());
    for at in (0..len).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        sum = unsafe { V::load(a.add(at)).mul_add(V::load(b.add(at)), sum) };
    }
    sum
}

/// Σ a ⊙ b over a row of a panel: whole vectors.
///
/// # Panics
/// If the rows differ in length or are no whole vectors.
#[inline(always)]
pub(crate) fn dot<T: Real, V: Vector<T>>(a: &[T], b: &[T]) -> T {
    assert!(a.len() == b.len() && a.len().is_multiple_of(V::LANES) && V::LANES <= 16);
    let mut lanes = [T::zero(); 16];
    // SAFETY: the rows are whole vectors, and sixteen elements are at least one.
    unsafe { row_product::<T, V>(a.as_ptr(), b.as_ptr(), a.len()).store(lanes.as_mut_ptr()) };
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Adds to `sums` the rows of a panel.
///
/// # Panics
/// If the rows are no whole vectors.
#[inline(always)]
pub(crate) fn add_rows<T: Real, V: Vector<T>>(sums: &mut [T], rows: &[T]) {
    let width = sums.len();
    assert!(width.is_multiple_of(V::LANES) && rows.len().is_multiple_of(width));
    for at in (0..width).step_by(V::LANES) {
        // SAFETY: every vector lies inside its row.
        unsafe {
            // Two sums: an addition need not wait for the one before it.
            let mut sum = [V::load(sums.as_ptr().add(at)), V::splat(T::zero())];
            let mut row = rows.as_ptr().add(at);
            for _ in 0..rows.len() / width {
                sum = [sum[1], sum[0].add(V::load(row))];
                row = row.wrapping_add(width);
            }
            sum[0].add(sum[1]).store(sums.as_mut_ptr().add(at));
        }
    }
}

/// `w [O, K]` as a panel `[K, O]`: what a product with Wᵀ reads.
pub(crate) fn transposed_panel<T: Real>(w: &[T], o: usize, k: usize) -> Aligned<T> {
    let mut panel = Aligned::default();
    fill_transposed_panel(w, o, k, &mut panel);
    panel
}

/// [`transposed_panel`] in memory that is empty or held such a panel: what lies between its rows is zero.
pub(crate) fn fill_transposed_panel<T: Real>(w: &[T], o: usize, k: usize, panel: &mut Aligned<T>) {
    let row = panel_row(o);
    panel.lengthen(k * row);
    transpose(w, k, [o, k], panel, row);
}

/// A panel `[K, O]` back as `w [O, K]`.
pub(crate) fn from_transposed_panel<T: Real>(panel: &[T], o: usize, k: usize, w: &mut [T]) {
    transpose(panel, panel_row(o), [k, o], w, k);
}

/// `w [K, C]` as a panel `[K, C]`: rows padded to whole vectors.
pub(crate) fn panel<T: Real>(w: &[T], c: usize) -> Aligned<T> {
    let row = panel_row(c);
    let mut panel = Aligned::zeros(w.len() / c * row);
    panel.chunks_exact_mut(row).zip(w.chunks_exact(c)).for_each(|(p, w)| p[..c].copy_from_slice(w));
    panel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, Portable, dispatch};

    /// A product of two chunks with all its ways to start, held against its definition.
    struct Check {
        rows: usize,
        columns: usize,
        /// Terms of both.
        k: [usize; 2],
    }

    /// Small whole numbers: their products and sums are exact, so that a tile makes the same bits as any loop.
    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    impl Kernel<f32> for Check {
        type Output = ();

        #[inline(always)]
        fn run<V: Vector<f32>>(self) {
            let Check { rows, columns, k } = self;
            let [a_row, b_row] = [k[0] + k[1], panel_row(columns)];
            let (a, b) = (numbers(rows * a_row, 1), panel(&numbers((k[0] + k[1]) * columns, 2), columns));
            let (bias, old) = (panel(&numbers(columns, 3), columns), numbers(rows * columns, 4));
            let chunks =
                [(0, k[0]), (k[0], k[1])].map(|(at, k)| Chunk { a: a[at..].as_ptr(), b: b[at * b_row..].as_ptr(), k });
            for start in [Start::Zero, Start::Bias(bias.as_ptr()), Start::Output] {
                for rectifier in [Rectifier::Identity, Rectifier::Relu] {
                    let mut out = old.clone();
                    let product = Product {
                        rows,
                        columns,
                        a_row,
                        a_step: 1,
                        b_row,
                        start,
                        out: out.as_mut_ptr(),
                        out_row: columns,
                        rectifier,
                    };
                    // SAFETY: `a` and `out` hold the rows, the panels whole vectors.
                    unsafe { product.run::<V>(&chunks) };
                    // The same rows in fours that lie further apart.
                    let fours = 4 * a_row + 3;
                    let spread: Vec<f32> = a.chunks(4 * a_row).flat_map(|four| [four, &[9.0; 3]].concat()).collect();
                    let (mut same, at) = (old.clone(), spread.as_ptr());
                    let chunks = [(0, chunks[0]), (k[0], chunks[1])]
                        .map(|(first, of)| Chunk { a: at.wrapping_add(first), ..of });
                    let product = Product { out: same.as_mut_ptr(), ..product };
                    // SAFETY: likewise; `spread` holds the rows in fours.
                    unsafe { product.run_fours::<V, 0, 0>(&chunks, fours, Ahead::NOTHING) };
                    assert_eq!(same, out, "{rows} x {columns} in fours");
                    for (at, out) in out.into_iter().enumerate() {
                        let (r, o) = (at / columns, at % columns);
                        let first = match start {
                            Start::Zero => 0.0,
                            Start::Bias(_) => bias[o],
                            Start::Output => old[at],
                        };
                        let sum: f32 = (0..a_row).map(|k| a[r * a_row + k] * b[k * b_row + o]).sum();
                        let expected = if rectifier == Rectifier::Relu { (first + sum).max(0.0) } else { first + sum };
                        assert_eq!(out, expected, "{rows} x {columns}, element {r}, {o}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_height_and_width_of_a_product_is_its_definition() {
        for rows in 1..=26 {
            for columns in [1, 4, 5, 8, 9, 16, 17, 24, 33, 40] {
                for k in [[3, 5], [7, 9]] {
                    dispatch(Check { rows, columns, k });
                    Check { rows, columns, k }.run::<Portable<f32>>(); // with sixteen registers on every processor
                }
            }
        }
    }
}
