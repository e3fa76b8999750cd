//! Logical shapes, and where each element lies in memory.

use std::fmt;
use std::ops::Deref;

/// The largest rank a tensor can have.
pub const MAX_RANK: usize = 6;

/// The logical extents of a tensor, `[N, C, H, W]` for images, at most six.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The number of elements: the product of the extents, 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// Whether logical row-major order and memory order are the same sequence of elements.
    pub fn is_row_major(&self) -> bool {
        match **self {
            [_, c, h, w] => c == 1 || h * w == 1,
            _ => true,
        }
    }

    /// The distance in memory between neighbours along each axis: channels last for rank 4, row-major otherwise.
    // ANCHOR: strides
    pub fn strides(&self) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        if let [_, c, h, w] = **self {
            strides[..4].copy_from_slice(&[h * w * c, 1, w * c, c]);
        } else {
            let mut step = 1;
            for axis in (0..self.rank).rev() {
                strides[axis] = step;
                step *= self.dims[axis];
            }
        }
        strides
    }
    // ANCHOR_END: strides
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl From<&[usize]> for Shape {
    /// # Panics
    /// If the rank is above six: no operation here makes such a tensor.
    fn from(extents: &[usize]) -> Self {
        assert!(extents.len() <= MAX_RANK, "rank {} is above {MAX_RANK}", extents.len());
        let mut dims = [0; MAX_RANK];
        dims[..extents.len()].copy_from_slice(extents);
        Shape { dims, rank: extents.len() }
    }
}

impl<const R: usize> From<[usize; R]> for Shape {
    fn from(extents: [usize; R]) -> Self {
        Shape::from(&extents[..])
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        *shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_channels_last_and_all_else_row_major() {
        assert_eq!(Shape::from([2, 3, 4, 5]).strides()[..4], [60, 1, 15, 3]);
        assert_eq!(Shape::from([2, 3, 4]).strides()[..3], [12, 4, 1]);
        assert!(Shape::from([2, 3, 1, 1]).is_row_major());
        assert!(Shape::from([2, 1, 4, 5]).is_row_major());
        assert!(!Shape::from([2, 3, 4, 5]).is_row_major());
        assert_eq!(Shape::from([]).elements(), 1);
    }
}
