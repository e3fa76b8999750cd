//! The transpose of a matrix in memory, tile by tile: whole lines of the cache are read and written, whichever side is the
//! longer one.

/// Rows and columns of a tile: a line of the cache of f32.
const TILE: usize = 16;

/// `to[j, i] = from[i, j]`, rows of `from` being `from_row` and rows of `to` being `to_row` elements apart.
///
/// # Panics
/// If `from` or `to` ends before its last element.
pub(crate) fn transpose<T: Copy>(
    from: &[T],
    from_row: usize,
    [rows, columns]: [usize; 2],
    to: &mut [T],
    to_row: usize,
) {
    for i in (0..rows).step_by(TILE) {
        let height = TILE.min(rows - i);
        for j in (0..columns).step_by(TILE) {
            for column in j..columns.min(j + TILE) {
                let to = &mut to[column * to_row + i..][..height];
                let from = from[i * from_row + column..].iter().step_by(from_row);
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for [rows, columns, from_row, to_row] in
            [[1, 1, 1, 1], [3, 5, 5, 3], [17, 40, 41, 19], [64, 16, 16, 64], [2, 0, 1, 2]]
        {
            let from: Vec<usize> = (0..rows * from_row).collect();
            let mut to = vec![usize::MAX; columns * to_row];
            transpose(&from, from_row, [rows, columns], &mut to, to_row);
            for (at, &value) in to.iter().enumerate() {
                let [column, row] = [at / to_row, at % to_row];
                assert_eq!(value, if row < rows { row * from_row + column } else { usize::MAX });
            }
        }
    }
}
