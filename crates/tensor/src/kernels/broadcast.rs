//! Sums and products with broadcasting: logical shapes are aligned from the right, and an extent of 1, or one that is
//! missing, is repeated (NumPy's rules).
//! ```text
//! y[i] = a[i′] + b[i″]      da[i′] = Σ dy[i] over the i that i′ stands for              (broadcast.1)
//! y[i] = a[i′] · b[i″]      da[i′] = Σ dy[i] · b[i″] over the i that i′ stands for      (broadcast.2)
//! ```
//! i′ is i with 0 in place of every repeated index. [`sum_to`] is the adjoint of the repetition.
//!
//! The walk follows the result's memory; axes that all operands step through evenly are joined, so a gate
//! `[N,C,1,1]` on `[N,C,H,W]` becomes N·HW runs over C contiguous channels.

use super::reduce;
use super::rows::for_each_chunk;
use crate::parallel::split;
use crate::shape::MAX_RANK;
use crate::{Error, Real, Result, Shape, Tensor};

/// `sum += x` for two tensors of one shape, in place.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn add_to<T: Real>(sum: &mut Tensor<T>, x: &Tensor<T>) -> Result<()> {
    if sum.shape() != x.shape() {
        return Err(Error::shape("add_to", "x", format!("{:?}", sum.shape()), x.shape()));
    }
    let (len, x) = (x.len(), x.as_slice());
    split(sum.as_mut_slice(), len, 1, |range, sum| sum.iter_mut().zip(&x[range]).for_each(|(sum, &x)| *sum += x));
    Ok(())
}

/// a + b, (broadcast.1).
///
/// # Shapes
/// Any two that broadcast, such as `[N,C,H,W]` and `[C,1,1]` → the larger extent of each axis.
///
/// # Errors
/// [`Error::Shape`] if an axis has two extents and neither is 1.
pub fn add<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    binary("add", a, b, |a, b| a + b)
}

/// a ⊙ b, (broadcast.2).
///
/// # Shapes
/// As [`add`].
///
/// # Errors
/// As [`add`].
pub fn mul<T: Real>(a: &Tensor<T>, b: &Tensor<T>) -> Result<Tensor<T>> {
    binary("mul", a, b, |a, b| a * b)
}

/// The sum of `x` over the axes along which `shape` would be repeated to become the shape of `x`: the adjoint of
/// broadcasting.
///
/// # Shapes
/// `x` of a shape that `shape` broadcasts to → `shape`.
///
/// # Errors
/// [`Error::Shape`] if `shape` does not broadcast to the shape of `x`.
pub fn sum_to<T: Real>(x: &Tensor<T>, shape: &[usize]) -> Result<Tensor<T>> {
    if x.shape()[..] == *shape {
        return Ok(x.clone());
    }
    let aligned = align("sum_to", "shape", shape, x.shape())?;
    let axes: Vec<usize> = (0..aligned.len()).filter(|&axis| aligned[axis] != x.shape()[axis]).collect();
    reduce::sum(x, &axes, true)?.reshape(shape)
}

/// `x` repeated to `shape`.
///
/// # Shapes
/// `x` of a shape that broadcasts to `shape` → `shape`.
///
/// # Errors
/// [`Error::Shape`] if it does not.
pub fn expand<T: Real>(x: &Tensor<T>, shape: &[usize]) -> Result<Tensor<T>> {
    if x.shape()[..] == *shape {
        return Ok(x.clone());
    }
    check_rank("expand", shape)?;
    let shape = Shape::from(shape);
    align("expand", "x", x.shape(), &shape)?;
    let walk = Walk::new(&shape, [x.shape()]);
    let [step] = walk.steps;
    let mut y = Tensor::any(shape);
    walk.for_each_run(y.as_mut_slice(), |[start], y| {
        let x = &x.as_slice()[start..];
        match step {
            0 => y.fill(x[0]),
            1 => y.copy_from_slice(&x[..y.len()]),
            step => y.iter_mut().enumerate().for_each(|(i, y)| *y = x[i * step]),
        }
    });
    Ok(y)
}

fn binary<T: Real>(
    op: &'static str,
    a: &Tensor<T>,
    b: &Tensor<T>,
    f: impl Fn(T, T) -> T + Send + Sync,
) -> Result<Tensor<T>> {
    let shape = broadcast_shape(op, a.shape(), b.shape())?;
    let walk = Walk::new(&shape, [a.shape(), b.shape()]);
    let mut y = Tensor::any(shape);
    walk.for_each_run(y.as_mut_slice(), |[a_start, b_start], y| {
        let (a, b) = (&a.as_slice()[a_start..], &b.as_slice()[b_start..]);
        match walk.steps {
            [1, 1] => y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b)),
            [1, 0] => y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b[0])),
            [0, 1] => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a[0], b)),
            [p, q] => y.iter_mut().enumerate().for_each(|(i, y)| *y = f(a[i * p], b[i * q])),
        }
    });
    Ok(y)
}

/// The shape both broadcast to.
fn broadcast_shape(op: &'static str, a: &Shape, b: &Shape) -> Result<Shape> {
    let rank = a.len().max(b.len());
    let extent = |shape: &Shape, axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    let extents: Option<Vec<usize>> = (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, other) | (other, 1) => Some(other),
            _ => None,
        })
        .collect();
    match extents {
        Some(extents) => Ok(Shape::from(&extents[..])),
        None => Err(Error::shape(op, "b", format!("a shape that broadcasts with a {a:?}"), b)),
    }
}

/// `shape` with ones before it up to the rank of `to`, checked to broadcast to `to`.
fn align(op: &'static str, arg: &'static str, shape: &[usize], to: &Shape) -> Result<Shape> {
    let mismatch = || Error::shape(op, arg, format!("a shape that broadcasts to {to:?}"), shape);
    let missing = to.len().checked_sub(shape.len()).ok_or_else(mismatch)?;
    let aligned = [&[1; MAX_RANK][..missing], shape].concat();
    if aligned.iter().zip(to.iter()).all(|(&extent, &to)| extent == to || extent == 1) {
        Ok(Shape::from(&aligned[..]))
    } else {
        Err(mismatch())
    }
}

fn check_rank(op: &'static str, shape: &[usize]) -> Result<()> {
    if shape.len() <= MAX_RANK {
        Ok(())
    } else {
        Err(Error::shape(op, "shape", format!("a rank of at most {MAX_RANK}"), shape))
    }
}

/// The axes of a shape from the outermost in memory to the innermost: channels last for rank 4.
pub(super) fn memory_axes(rank: usize) -> Vec<usize> {
    if rank == 4 { vec![0, 2, 3, 1] } else { (0..rank).collect() }
}

/// A walk through the memory of a result in contiguous runs, beside `K` operands that are broadcast to it.
struct Walk<const K: usize> {
    /// Extents outside a run, the innermost first, with the operands' strides.
    outer: Vec<(usize, [usize; K])>,
    /// The elements of a run.
    run: usize,
    /// The operands' strides inside a run.
    steps: [usize; K],
}

impl<const K: usize> Walk<K> {
    fn new(shape: &Shape, operands: [&Shape; K]) -> Self {
        let strides = |axis: usize| {
            operands.map(|operand| match (axis + operand.len()).checked_sub(shape.len()) {
                Some(own) if operand[own] > 1 => operand.strides()[own],
                _ => 0, // repeated, or never left
            })
        };
        let mut axes: Vec<(usize, [usize; K])> = Vec::new();
        for axis in memory_axes(shape.len()).into_iter().rev().filter(|&axis| shape[axis] != 1) {
            let outer = strides(axis);
            match axes.last_mut() {
                Some((extent, inner)) if (0..K).all(|k| outer[k] == *extent * inner[k]) => *extent *= shape[axis],
                _ => axes.push((shape[axis], outer)),
            }
        }
        if axes.is_empty() {
            axes.push((1, [1; K]));
        }
        let (run, steps) = axes.remove(0);
        Walk { outer: axes, run, steps }
    }

    /// Calls `f` with every run of `y` and where it starts in each operand.
    fn for_each_run<T: Send>(&self, y: &mut [T], f: impl Fn([usize; K], &mut [T]) + Send + Sync) {
        if self.outer.is_empty() {
            return for_each_chunk(y, 1, |start, y| f(self.steps.map(|step| start * step), y)); // one run, cut anywhere
        }
        for_each_chunk(y, self.run, |start, y| {
            for (i, y) in y.chunks_mut(self.run).enumerate() {
                f(self.starts(start / self.run + i), y);
            }
        });
    }

    fn starts(&self, mut run: usize) -> [usize; K] {
        let mut starts = [0; K];
        for (extent, strides) in &self.outer {
            let index = run % extent;
            run /= extent;
            starts.iter_mut().zip(strides).for_each(|(start, stride)| *start += index * stride);
        }
        starts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::broadcast as reference;

    type Case = (&'static [usize], &'static [usize], &'static [usize]);

    /// a, b and their result: every fast case, both orders, ranks that differ, and axes that stay apart.
    const CASES: &[Case] = &[
        (&[2, 3, 4, 5], &[2, 3, 4, 5], &[2, 3, 4, 5]),
        (&[2, 3, 1, 1], &[2, 3, 4, 5], &[2, 3, 4, 5]),
        (&[2, 3, 4, 5], &[3, 1, 1], &[2, 3, 4, 5]),
        (&[1, 3, 1, 1], &[2, 3, 4, 5], &[2, 3, 4, 5]),
        (&[2, 1, 4, 5], &[2, 3, 4, 5], &[2, 3, 4, 5]),
        (&[2, 3, 4, 5], &[3, 4, 1], &[2, 3, 4, 5]),
        (&[2, 3, 4, 5], &[4, 5], &[2, 3, 4, 5]),
        (&[2, 1, 4, 1], &[1, 3, 1, 5], &[2, 3, 4, 5]),
        (&[2, 1, 1, 1], &[1, 3, 4, 1], &[2, 3, 4, 1]),
        (&[5], &[4, 1], &[4, 5]),
        (&[], &[2, 3], &[2, 3]),
        (&[], &[], &[]),
        (&[1, 1, 1, 1], &[1], &[1, 1, 1, 1]),
        (&[2, 3, 4], &[2, 3, 1], &[2, 3, 4]),
        (&[0, 3], &[3], &[0, 3]),
        (&[3, 16, 41, 33], &[3, 16, 1, 1], &[3, 16, 41, 33]),
        (&[3, 16, 41, 33], &[41, 1], &[3, 16, 41, 33]),
    ];

    #[test]
    fn sums_products_and_their_adjoint_are_the_definition() {
        for &(a_shape, b_shape, shape) in CASES {
            let (a, b) = (randn::<f64>(a_shape, 1), randn::<f64>(b_shape, 2));
            for (a, b) in [(&a, &b), (&b, &a)] {
                let what = format!("{:?} {:?}", a.shape(), b.shape());
                assert_close(&what, &add(a, b).unwrap(), &reference::binary(a, b, shape, |a, b| a + b), 0.0);
                assert_close(&what, &mul(a, b).unwrap(), &reference::binary(a, b, shape, |a, b| a * b), 0.0);
                let repeated = reference::binary(a, &Tensor::zeros([]), shape, |a, _| a);
                assert_close(&what, &expand(a, shape).unwrap(), &repeated, 0.0);
            }
            if shape.iter().product::<usize>() < 1000 {
                let x = randn::<f64>(shape, 3);
                assert_close("sum_to", &sum_to(&x, a_shape).unwrap(), &reference::sum_to(&x, a_shape), 1e-13);
                assert_close("sum_to", &sum_to(&x, b_shape).unwrap(), &reference::sum_to(&x, b_shape), 1e-13);
            }
        }
    }

    #[test]
    fn gradients_are_central_differences() {
        for &(a, b, shape) in CASES.iter().filter(|(.., shape)| shape.iter().product::<usize>() < 1000) {
            let (a, b, dy) = (randn::<f64>(a, 1), randn::<f64>(b, 2), randn::<f64>(shape, 3));
            let da = sum_to(&dy, a.shape()).unwrap();
            assert_gradient("sum", &a, &da, &dy, |a| add(a, &b).unwrap());
            let db = sum_to(&mul(&dy, &a).unwrap(), b.shape()).unwrap();
            assert_gradient("product", &b, &db, &dy, |b| mul(&a, b).unwrap());
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let (a, b) = (randn::<f32>([3, 16, 41, 33], 1), randn::<f32>([3, 16, 1, 1], 2));
        assert_same_bits("broadcast", || {
            let y = mul(&a, &b).unwrap();
            vec![sum_to(&y, &[3, 16, 1, 1]).unwrap(), sum_to(&y, &[16, 1, 1]).unwrap(), sum_to(&y, &[]).unwrap(), y]
        });
    }

    #[test]
    fn shapes_that_do_not_broadcast_are_errors_with_numbers() {
        let (a, b) = (Tensor::<f32>::zeros([2, 3]), Tensor::zeros([2, 4]));
        assert_eq!(message(add(&a, &b)), "add: `b` has shape [2, 4], expected a shape that broadcasts with a [2, 3]");
        assert!(message(mul(&a, &Tensor::zeros([2]))).contains("mul"));
        assert!(message(sum_to(&a, &[2, 1, 3])).contains("[2, 1, 3], expected a shape that broadcasts to [2, 3]"));
        assert!(message(sum_to(&a, &[2])).contains("[2]"));
        assert!(message(expand(&a, &[3])).contains("expand"));
        assert!(message(expand(&a, &[1, 1, 1, 1, 1, 2, 3])).contains("at most 6"));
    }

    #[test]
    fn a_tensor_is_added_in_place() {
        for shape in [&[][..], &[5], &[2, 3, 4, 5], &[19, 24, 33, 71], &[0, 3]] {
            let (a, b) = (randn::<f32>(shape, 1), randn(shape, 2));
            let (mut sum, kept) = (a.clone(), a.clone());
            add_to(&mut sum, &b).unwrap();
            assert_eq!(sum.as_slice(), add(&a, &b).unwrap().as_slice(), "{shape:?}");
            assert_eq!(kept.as_slice(), a.as_slice(), "{shape:?}: memory that is shared was written");
        }
        let error = message(add_to(&mut randn::<f32>([2, 3], 1), &randn([3], 2)));
        assert_eq!(error, "add_to: `x` has shape [3], expected [2, 3]");
    }
}
