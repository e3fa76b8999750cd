//! Sums and means over axes.
//! ```text
//! y[k] = Σ_r x[k,r]         dx[k,r] = dy[k]          (reduce.1)
//! y[k] = 1/R Σ_r x[k,r]     dx[k,r] = dy[k]/R        (reduce.2)
//! ```
//! k runs over the axes that stay and r over the R combinations of those that go. [`expand`] repeats `dy` for the
//! backward. Sums are gathered in f64, whatever `T` is.

pub use super::broadcast::expand;
use super::broadcast::memory_axes;
use super::rows::{add_column_sums, for_each_chunk, sum_rows};
use crate::{Error, Real, Result, Shape, Tensor};

/// Results with more elements than this are summed by one thread: a copy of them for each piece of the work would cost
/// more than threads win.
const LARGE: usize = 1 << 16;

/// The sum over `axes`, (reduce.1). The axes disappear, or stay with extent 1 if `keep`.
///
/// # Shapes
/// Any `x` → its shape without `axes`. No axes at all: `x` itself.
///
/// # Errors
/// [`Error::Invalid`] if an axis does not exist or is named twice.
pub fn sum<T: Real>(x: &Tensor<T>, axes: &[usize], keep: bool) -> Result<Tensor<T>> {
    let reduction = Reduction::check("sum", x.shape(), axes)?;
    reduction.result(x, 1.0, keep)
}

/// The mean over `axes`, (reduce.2). The axes disappear, or stay with extent 1 if `keep`.
///
/// # Shapes
/// As [`sum`].
///
/// # Errors
/// As [`sum`], and if there is nothing to take the mean of.
pub fn mean<T: Real>(x: &Tensor<T>, axes: &[usize], keep: bool) -> Result<Tensor<T>> {
    const OP: &str = "mean";
    let reduction = Reduction::check(OP, x.shape(), axes)?;
    let count: usize = axes.iter().map(|&axis| x.shape()[axis]).product();
    if count == 0 {
        return Err(Error::invalid(OP, format!("x {:?} has no elements along the axes {axes:?}", x.shape())));
    }
    reduction.result(x, 1.0 / count as f64, keep)
}

/// Which axes go.
struct Reduction {
    shape: Shape,
    goes: Vec<bool>,
}

/// Neighbouring axes in memory that all stay or all go, as one.
#[derive(Clone, Copy)]
enum Axis {
    Stays(usize),
    Goes(usize),
}

impl Reduction {
    fn check(op: &'static str, shape: &Shape, axes: &[usize]) -> Result<Self> {
        let mut goes = vec![false; shape.len()];
        for &axis in axes {
            match goes.get_mut(axis) {
                Some(goes) if !*goes => *goes = true,
                Some(_) => return Err(Error::invalid(op, format!("axis {axis} is named twice in {axes:?}"))),
                None => {
                    return Err(Error::invalid(op, format!("axis {axis} does not exist in x of shape {shape:?}")));
                }
            }
        }
        Ok(Reduction { shape: *shape, goes })
    }

    fn result<T: Real>(&self, x: &Tensor<T>, factor: f64, keep: bool) -> Result<Tensor<T>> {
        if !self.goes.contains(&true) {
            return Ok(x.clone());
        }
        let axes = 0..self.shape.len();
        let kept: Vec<usize> = axes.clone().map(|axis| if self.goes[axis] { 1 } else { self.shape[axis] }).collect();
        let kept = Shape::from(&kept[..]);
        let mut sums = vec![0.0; kept.elements()];
        if !x.is_empty() {
            sum_parallel(x.as_slice(), &self.memory(), &mut sums);
        }
        let y = Tensor::from_memory(kept, sums.into_iter().map(|sum| T::of(sum * factor)).collect())?;
        if keep {
            return Ok(y);
        }
        let left: Vec<usize> = axes.filter(|&axis| !self.goes[axis]).map(|axis| self.shape[axis]).collect();
        y.reshape(&left[..])
    }

    /// The axes as they lie in memory, the outermost first.
    fn memory(&self) -> Vec<Axis> {
        let mut axes = Vec::new();
        for axis in memory_axes(self.shape.len()) {
            let extent = self.shape[axis];
            match (axes.last_mut(), self.goes[axis]) {
                _ if extent == 1 => {}
                (Some(Axis::Goes(inner)), true) | (Some(Axis::Stays(inner)), false) => *inner *= extent,
                (_, true) => axes.push(Axis::Goes(extent)),
                (_, false) => axes.push(Axis::Stays(extent)),
            }
        }
        axes
    }
}

/// [`sum_axes`], the outermost axis cut into pieces.
fn sum_parallel<T: Real>(x: &[T], axes: &[Axis], sums: &mut [f64]) {
    match *axes {
        [Axis::Stays(n), ref inner @ ..] => {
            let (x_step, step) = (x.len() / n, sums.len() / n);
            for_each_chunk(sums, step, |start, sums| {
                let x = x[start / step * x_step..].chunks_exact(x_step);
                sums.chunks_exact_mut(step).zip(x).for_each(|(sums, x)| sum_axes(x, inner, sums));
            });
        }
        [Axis::Goes(n), ref inner @ ..] if sums.len() <= LARGE => {
            let step = x.len() / n;
            let of_piece = |piece: std::ops::Range<usize>| {
                let mut sums = vec![0.0; sums.len()];
                let axes = [&[Axis::Goes(piece.len())], inner].concat();
                sum_axes(&x[piece.start * step..piece.end * step], &axes, &mut sums);
                sums
            };
            let add = |a: &mut Vec<f64>, b: Vec<f64>| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            if let Some(total) = sum_rows(n, step, of_piece, add) {
                sums.copy_from_slice(&total);
            }
        }
        _ => sum_axes(x, axes, sums),
    }
}

/// Adds `x` to `sums`, which has only the axes that stay. Both are walked axis by axis, the outermost first.
fn sum_axes<T: Real>(x: &[T], axes: &[Axis], sums: &mut [f64]) {
    match *axes {
        [] | [Axis::Stays(_)] | [Axis::Goes(_)] | [Axis::Goes(_), Axis::Stays(_)] => add_column_sums(x, sums),
        [Axis::Goes(n), ref inner @ ..] => {
            x.chunks_exact(x.len() / n).for_each(|x| sum_axes(x, inner, sums));
        }
        [Axis::Stays(n), ref inner @ ..] => {
            let step = sums.len() / n;
            sums.chunks_exact_mut(step).zip(x.chunks_exact(x.len() / n)).for_each(|(sums, x)| sum_axes(x, inner, sums));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, assert_same_bits, message};
    use crate::random::randn;
    use crate::reference::reduce as reference;

    /// Every subset of the axes of a shape.
    fn subsets(rank: usize) -> impl Iterator<Item = Vec<usize>> {
        (0..1 << rank).map(move |bits: usize| (0..rank).filter(|axis| bits >> axis & 1 == 1).collect())
    }

    #[test]
    fn every_set_of_axes_is_the_definition() {
        for shape in
            [&[2, 3, 4, 5][..], &[3, 1, 2, 1], &[2, 1, 3, 3], &[3, 4, 5], &[6, 7], &[5], &[], &[0, 3], &[2, 2, 2, 2, 3]]
        {
            let x = randn::<f64>(shape, 1);
            for axes in subsets(shape.len()) {
                let what = format!("{shape:?} {axes:?}");
                let (expected, kept) = (reference::sum(&x, &axes), sum(&x, &axes, true).unwrap());
                assert_close(&what, &kept, &expected, 1e-13);
                let dropped = sum(&x, &axes, false).unwrap();
                assert_eq!(dropped.shape().len(), shape.len() - axes.len(), "{what}");
                assert_eq!(dropped.to_vec(), kept.to_vec(), "{what}");
                let count: usize = axes.iter().map(|&axis| shape[axis]).product();
                if count > 0 {
                    let expected = expected.map(|sum| sum / count as f64);
                    assert_close(&what, &mean(&x, &axes, true).unwrap(), &expected, 1e-13);
                }
            }
        }
    }

    /// Many results cut into chunks, many terms cut into pieces, and results too large for a copy a piece.
    #[test]
    fn large_sums_are_the_definition() {
        for shape in [[30, 2000, 3], [2000, 2, 40], [3, 2, 80_000], [50, 3000, 1]] {
            let x = randn::<f64>(shape, 1);
            for axis in 0..3 {
                let mut kept = shape;
                kept[axis] = 1;
                let mut expected = Tensor::<f64>::zeros(kept);
                let strides = Shape::from(kept).strides();
                for (i, &x) in x.view().indexed_iter() {
                    let offset: usize =
                        (0..3).filter(|&other| other != axis).map(|other| i[other] * strides[other]).sum();
                    expected.as_mut_slice()[offset] += x;
                }
                assert_close(&format!("{shape:?} {axis}"), &sum(&x, &[axis], true).unwrap(), &expected, 1e-12);
            }
        }
    }

    #[test]
    fn expand_is_the_backward() {
        let x = randn::<f64>([2, 3, 2, 4], 1);
        for axes in subsets(4) {
            let dy = randn::<f64>(sum(&x, &axes, true).unwrap().shape(), 2);
            let dx = expand(&dy, x.shape()).unwrap();
            assert_gradient("sum", &x, &dx, &dy, |x| sum(x, &axes, true).unwrap());
        }
    }

    #[test]
    fn a_long_sum_in_f32_keeps_its_digits() {
        for (shape, axes) in [(&[3_000_000][..], &[0][..]), (&[1, 2, 1500, 1000], &[0, 2, 3])] {
            let sum = sum(&Tensor::full(shape, 0.1f32), axes, false).unwrap();
            let expected = 0.1f32.f64() * (shape.iter().product::<usize>() / sum.len()) as f64;
            assert!((sum.as_slice()[0].f64() / expected - 1.0).abs() < 1e-5, "{sum:?} for {expected}");
        }
    }

    #[test]
    fn the_bits_do_not_depend_on_the_threads() {
        let x = randn::<f32>([5, 16, 41, 33], 1);
        assert_same_bits("sum", || subsets(4).map(|axes| sum(&x, &axes, false).unwrap()).collect());
    }

    #[test]
    fn wrong_axes_are_errors_with_numbers() {
        let x = Tensor::<f32>::zeros([2, 0]);
        assert_eq!(message(sum(&x, &[2], false)), "sum: axis 2 does not exist in x of shape [2, 0]");
        assert!(message(sum(&x, &[1, 1], false)).contains("axis 1 is named twice"));
        assert!(message(mean(&x, &[1], false)).contains("no elements along the axes [1]"));
    }
}
