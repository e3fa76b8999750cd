//! Joining along an axis, taking a range of one, and the channel shuffle. Copies only: in the first two each operand is a
//! number of contiguous pieces, one for each index of the axes that lie outside in memory.
//! ```text
//! y[.., start_i + j, ..] = x_i[.., j, ..],  start_i = the extents before x_i     (concat.1)
//! y[.., j, ..] = x[.., start + j, ..]                                            (narrow.1)
//! dx[.., j, ..] = dy[.., j − start, ..] inside the range, 0 outside              (narrow.2)
//! y[n, j·g + i, h, l] = x[n, i·(C/g) + j, h, l],  i < g, j < C/g                 (shuffle.1)
//! ```

use rayon::prelude::*;

use super::broadcast::memory_axes;
use crate::parallel;
use crate::shape::MAX_RANK;
use crate::{Error, Real, Result, Shape, Tensor};

/// The tensors one after another along `axis`, (concat.1).
///
/// # Shapes
/// All alike except along `axis` → the extents along `axis` added up.
///
/// # Errors
/// [`Error::Invalid`] without any tensor or if the axis does not exist, [`Error::Shape`] if another axis differs.
pub fn concat<T: Real>(xs: &[&Tensor<T>], axis: usize) -> Result<Tensor<T>> {
    const OP: &str = "concat";
    let Some(first) = xs.first() else { return Err(Error::invalid(OP, "there is no tensor to join")) };
    check_axis(OP, first.shape(), axis)?;
    let along = |x: &Tensor<T>| x.shape().get(axis).copied();
    for x in xs {
        let like_first = along(x).map(|extent| with_extent(first.shape(), axis, extent));
        if like_first != Some(*x.shape()) {
            let expected = format!("{:?} but for axis {axis}", first.shape());
            return Err(Error::shape(OP, "xs", expected, x.shape()));
        }
    }
    let shape = with_extent(first.shape(), axis, xs.iter().filter_map(|x| along(x)).sum());
    let [outer, _] = around(&shape, axis);
    let mut y = Tensor::any(shape);
    for_each_piece(y.as_mut_slice(), outer, |i, mut y| {
        for x in xs {
            let (piece, rest) = y.split_at_mut(x.len() / outer);
            piece.copy_from_slice(&x.as_slice()[i * piece.len()..][..piece.len()]);
            y = rest;
        }
    });
    Ok(y)
}

/// The entries `start .. start + len` of `axis`, (narrow.1).
///
/// # Shapes
/// Any `x` → the same with extent `len` along `axis`.
///
/// # Errors
/// [`Error::Invalid`] if the axis does not exist or the range leaves it.
pub fn narrow<T: Real>(x: &Tensor<T>, axis: usize, start: usize, len: usize) -> Result<Tensor<T>> {
    check_range("narrow", x.shape(), axis, start, len)?;
    let shape = with_extent(x.shape(), axis, len);
    let ([outer, inner], extent) = (around(x.shape(), axis), x.shape()[axis]);
    let mut y = Tensor::any(shape);
    for_each_piece(y.as_mut_slice(), outer, |i, y| {
        y.copy_from_slice(&x.as_slice()[(i * extent + start) * inner..][..len * inner]);
    });
    Ok(y)
}

/// The gradient of [`narrow`]'s input, (narrow.2).
///
/// # Shapes
/// `shape` is that of the input, `dy` that of the result → `dx` of `shape`.
///
/// # Errors
/// As [`narrow`], and [`Error::Shape`] if `dy` is no range of `shape`.
pub fn narrow_backward<T: Real>(shape: &[usize], axis: usize, start: usize, dy: &Tensor<T>) -> Result<Tensor<T>> {
    const OP: &str = "narrow_backward";
    if shape.len() > MAX_RANK {
        return Err(Error::shape(OP, "shape", format!("a rank of at most {MAX_RANK}"), shape));
    }
    let shape = Shape::from(shape);
    check_axis(OP, &shape, axis)?;
    let len = dy.shape().get(axis).copied().unwrap_or(0);
    if *dy.shape() != with_extent(&shape, axis, len) {
        return Err(Error::shape(OP, "dy", format!("{shape:?} but for axis {axis}"), dy.shape()));
    }
    check_range(OP, &shape, axis, start, len)?;
    let [outer, inner] = around(&shape, axis);
    let mut dx = Tensor::any(shape);
    for_each_piece(dx.as_mut_slice(), outer, |i, dx| {
        let (before, rest) = dx.split_at_mut(start * inner);
        let (range, behind) = rest.split_at_mut(len * inner);
        before.fill(T::zero());
        range.copy_from_slice(&dy.as_slice()[i * len * inner..][..len * inner]);
        behind.fill(T::zero());
    });
    Ok(dx)
}

/// Consecutive ranges of `axis` of the given extents: the inverse of [`concat()`].
///
/// # Shapes
/// Any `x` → for each size the same with that extent along `axis`.
///
/// # Errors
/// [`Error::Invalid`] if the axis does not exist or the sizes do not add up to its extent.
pub fn split<T: Real>(x: &Tensor<T>, axis: usize, sizes: &[usize]) -> Result<Vec<Tensor<T>>> {
    const OP: &str = "split";
    check_axis(OP, x.shape(), axis)?;
    let total = sizes.iter().try_fold(0, |sum: usize, &size| sum.checked_add(size));
    if total != Some(x.shape()[axis]) {
        let message = format!("the sizes {sizes:?} do not add up to axis {axis} of x {:?}", x.shape());
        return Err(Error::invalid(OP, message));
    }
    let starts = sizes.iter().scan(0, |next, &size| Some(std::mem::replace(next, *next + size)));
    starts.zip(sizes).map(|(start, &size)| narrow(x, axis, start, size)).collect()
}

/// The channels of `groups` groups dealt out in turn, one of each group after another, (shuffle.1): the channel shuffle of
/// ShuffleNet. With C/g groups it undoes itself with g; that is its gradient.
///
/// # Shapes
/// `x [N,C,H,W]` → the same.
///
/// # Errors
/// [`Error::Shape`] if the rank is not 4, [`Error::Invalid`] if the groups do not divide the channels.
pub fn channel_shuffle<T: Real>(x: &Tensor<T>, groups: usize) -> Result<Tensor<T>> {
    const OP: &str = "channel_shuffle";
    let [_, c, h, w] = x.dims(OP, "x")?;
    if groups == 0 || c % groups != 0 {
        return Err(Error::invalid(OP, format!("{groups} groups do not divide {c} channels")));
    }
    let mut y = Tensor::any(*x.shape());
    if x.is_empty() {
        return Ok(y);
    }
    let (each, image) = (c / groups, c * h * w);
    let maps = y.as_mut_slice().par_chunks_exact_mut(image).zip(x.as_slice().par_chunks_exact(image));
    maps.for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
            for (j, y) in y.chunks_exact_mut(groups).enumerate() {
                y.iter_mut().enumerate().for_each(|(i, y)| *y = x[i * each + j]);
            }
        }
    });
    Ok(y)
}

/// Calls `f(i, piece)` with each of the `outer` pieces of `y`.
fn for_each_piece<T: Real>(y: &mut [T], outer: usize, f: impl Fn(usize, &mut [T]) + Send + Sync) {
    if y.is_empty() {
        return;
    }
    let len = y.len() / outer;
    parallel::split(y, outer, len, |range, y| range.zip(y.chunks_exact_mut(len)).for_each(|(i, y)| f(i, y)));
}

fn check_axis(op: &'static str, shape: &Shape, axis: usize) -> Result<()> {
    if axis < shape.len() {
        Ok(())
    } else {
        Err(Error::invalid(op, format!("axis {axis} does not exist in shape {shape:?}")))
    }
}

fn check_range(op: &'static str, shape: &Shape, axis: usize, start: usize, len: usize) -> Result<()> {
    check_axis(op, shape, axis)?;
    match start.checked_add(len) {
        Some(end) if end <= shape[axis] => Ok(()),
        _ => Err(Error::invalid(op, format!("{len} entries from {start} on leave axis {axis} of shape {shape:?}"))),
    }
}

fn with_extent(shape: &Shape, axis: usize, extent: usize) -> Shape {
    let mut extents = shape.to_vec();
    extents[axis] = extent;
    Shape::from(&extents[..])
}

/// How many elements the axes outside and inside `axis` have in memory.
fn around(shape: &Shape, axis: usize) -> [usize; 2] {
    let axes = memory_axes(shape.len());
    let place = axes.iter().position(|&a| a == axis).unwrap_or(0);
    [&axes[..place], &axes[place + 1..]].map(|axes| axes.iter().map(|&axis| shape[axis]).product())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, message};
    use crate::random::randn;
    use crate::reference::concat as reference;

    const SHAPES: &[&[usize]] = &[&[5], &[3, 4], &[2, 3, 4], &[2, 3, 4, 5], &[1, 1, 3, 2], &[2, 3, 2, 2, 3]];

    #[test]
    fn joining_is_the_definition_and_splitting_its_inverse() {
        for &shape in SHAPES {
            for axis in 0..shape.len() {
                let sizes = [2, 1, 0, 3];
                let xs: Vec<_> = sizes
                    .iter()
                    .zip(1..)
                    .map(|(&size, seed)| randn::<f64>(&with_extent(&Shape::from(shape), axis, size), seed))
                    .collect();
                let xs: Vec<_> = xs.iter().collect();
                let y = concat(&xs, axis).unwrap();
                assert_close(&format!("{shape:?} {axis}"), &y, &reference::concat(&xs, axis), 0.0);
                let parts = split(&y, axis, &sizes).unwrap();
                assert!(parts.iter().zip(&xs).all(|(part, &x)| part == x));
            }
        }
    }

    #[test]
    fn a_range_is_the_definition_and_its_gradient_the_central_difference() {
        for &shape in SHAPES {
            let x = randn::<f64>(shape, 1);
            for axis in 0..shape.len() {
                for start in 0..=shape[axis] {
                    let len = (shape[axis] - start).min(2);
                    let y = narrow(&x, axis, start, len).unwrap();
                    assert_close("y", &y, &reference::narrow(&x, axis, start, len), 0.0);
                    let dy = randn::<f64>(y.shape(), 2);
                    let dx = narrow_backward(x.shape(), axis, start, &dy).unwrap();
                    assert_gradient("dx", &x, &dx, &dy, |x| narrow(x, axis, start, len).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_shuffle_is_the_definition_and_undone_by_the_other_number_of_groups() {
        for [groups, each] in [[2, 3], [3, 2], [1, 4], [4, 1], [2, 1]] {
            let x = randn::<f64>([2, groups * each, 3, 2], 1);
            let y = channel_shuffle(&x, groups).unwrap();
            assert_close("y", &y, &reference::channel_shuffle(&x, groups), 0.0);
            assert!(channel_shuffle(&y, each).unwrap() == x);
        }
        assert!(channel_shuffle(&Tensor::<f32>::zeros([0, 4, 1, 1]), 2).unwrap().is_empty());
    }

    #[test]
    fn wrong_arguments_are_errors_with_numbers() {
        let (x, y) = (Tensor::<f32>::zeros([2, 3]), Tensor::zeros([3, 3]));
        assert_eq!(message(concat(&[&x, &y], 1)), "concat: `xs` has shape [3, 3], expected [2, 3] but for axis 1");
        assert!(message(concat(&[&x, &Tensor::zeros([2])], 0)).contains("[2]"));
        assert!(message(concat::<f32>(&[], 0)).contains("no tensor"));
        assert!(message(concat(&[&x], 2)).contains("axis 2 does not exist"));
        assert!(message(narrow(&x, 1, 2, 2)).contains("2 entries from 2 on leave axis 1"));
        assert!(message(narrow(&x, 1, usize::MAX, 2)).contains("leave axis 1"));
        assert!(message(narrow_backward(&[2, 3], 0, 0, &y)).contains("leave axis 0"));
        assert!(message(narrow_backward(&[2, 3], 1, 0, &y)).contains("`dy`"));
        assert!(message(split(&x, 1, &[1, 1])).contains("do not add up to axis 1"));
        assert!(message(split(&x, 1, &[usize::MAX, 4])).contains("do not add up"));
        assert!(message(channel_shuffle(&x, 1)).contains("expected rank 4"));
        for groups in [0, 3] {
            assert!(message(channel_shuffle(&Tensor::<f32>::zeros([1, 4, 1, 1]), groups)).contains("4 channels"));
        }
    }
}
