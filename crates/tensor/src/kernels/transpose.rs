//! The transpose of a matrix in memory, tile by tile in registers.

#![allow(unsafe_code, reason = "vectors are loaded and stored through raw pointers")]

use crate::Real;
use crate::simd::{Kernel, Vector, dispatch};

/// Lanes of a vector at most.
const LANES: usize = 16;

/// `to[j, i] = from[i, j]`, rows of `from` being `from_row` and rows of `to` being `to_row` elements apart.
///
/// # Panics
/// If `from` or `to` ends before its last element.
pub(crate) fn transpose<T: Real>(
    from: &[T],
    from_row: usize,
    [rows, columns]: [usize; 2],
    to: &mut [T],
    to_row: usize,
) {
    dispatch(Transpose { from, from_row, rows, columns, to, to_row });
}

/// See [`transpose`].
struct Transpose<'a, T> {
    from: &'a [T],
    from_row: usize,
    rows: usize,
    columns: usize,
    to: &'a mut [T],
    to_row: usize,
}

impl<T: Real> Kernel<T> for Transpose<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector<T>>(self) {
        let Transpose { from, from_row, rows, columns, to, to_row } = self;
        if rows == 0 || columns == 0 {
            return;
        }
        assert!((rows - 1) * from_row + columns <= from.len() && (columns - 1) * to_row + rows <= to.len());
        for i in (0..rows).step_by(V::LANES) {
            let height = V::LANES.min(rows - i);
            for j in (0..columns).step_by(V::LANES) {
                let width = V::LANES.min(columns - j);
                // SAFETY: the tile lies inside both matrices, whose last elements lie inside their slices.
                unsafe {
                    let (from, to) = (from.as_ptr().add(i * from_row + j), to.as_mut_ptr().add(j * to_row + i));
                    if height == V::LANES && width == V::LANES {
                        tile::<T, V>(from, from_row, [V::LANES; 2], to, to_row);
                    } else {
                        tile::<T, V>(from, from_row, [height, width], to, to_row);
                    }
                }
            }
        }
    }
}

/// A tile of at most a vector's lanes either way. Interleaving each row with the one half a tile below moves every element
/// one bit of its row number into its column number: after as many rounds as there are bits they are exchanged.
///
/// # Safety
/// The tile must be readable and writable.
// ANCHOR: tile
#[inline(always)]
unsafe fn tile<T: Real, V: Vector<T>>(
    from: *const T,
    from_row: usize,
    [height, width]: [usize; 2],
    to: *mut T,
    to_row: usize,
) {
    let mut rows = [V::splat(T::zero()); LANES];
    for (i, row) in rows[..height].iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *row = unsafe { V::load_first(from.add(i * from_row), width) };
    }
    for _ in 0..V::LANES.ilog2() {
        let old = rows;
        for i in 0..V::LANES / 2 {
            [rows[2 * i], rows[2 * i + 1]] = old[i].interleave(old[i + V::LANES / 2]);
        }
    }
    for (j, &column) in rows[..width].iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { column.store_first(to.add(j * to_row), height) };
    }
}
// ANCHOR_END: tile

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Portable;

    /// The transpose by its definition.
    fn check(run: impl Fn(Transpose<'_, f32>)) {
        for [rows, columns, from_row, to_row] in [
            [1, 1, 1, 1],
            [3, 5, 5, 3],
            [17, 40, 41, 19],
            [64, 16, 16, 64],
            [9, 128, 128, 9],
            [2, 0, 1, 2],
            [0, 2, 2, 1],
        ] {
            let from: Vec<f32> = (0..rows * from_row).map(|i| i as f32).collect();
            let mut to = vec![-1.0; columns * to_row];
            run(Transpose { from: &from, from_row, rows, columns, to: &mut to, to_row });
            for (at, &value) in to.iter().enumerate() {
                let [column, row] = [at / to_row, at % to_row];
                assert_eq!(value, if row < rows { (row * from_row + column) as f32 } else { -1.0 });
            }
        }
    }

    #[test]
    fn rows_become_columns() {
        check(|transpose| dispatch(transpose));
        check(|transpose| transpose.run::<Portable<f32>>());
    }
}
