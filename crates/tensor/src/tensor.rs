//! The tensor: a logical shape over shared memory.

use std::fmt;

use ndarray::{ArrayViewD, IxDyn, ShapeBuilder};

use crate::kernels::transpose::transpose;
use crate::parallel::split;
use crate::storage::Storage;
use crate::{Error, Real, Result, Shape};

/// A dense array of `T` with a logical shape; rank 4 lies channels last in memory. Cloning shares the memory, writing
/// copies it first where it is shared.
#[derive(Clone)]
pub struct Tensor<T: Real> {
    shape: Shape,
    storage: Storage<T>,
}

impl<T: Real> Tensor<T> {
    /// All zeros.
    pub fn zeros(shape: impl Into<Shape>) -> Self {
        Self::full(shape, T::zero())
    }

    /// All ones.
    pub fn ones(shape: impl Into<Shape>) -> Self {
        Self::full(shape, T::one())
    }

    /// One value everywhere.
    pub fn full(shape: impl Into<Shape>, value: T) -> Self {
        let shape = shape.into();
        Tensor { shape, storage: Storage::filled(shape.elements(), value) }
    }

    /// Elements of any value, for a kernel that writes every one of them.
    pub(crate) fn any(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        Tensor { shape, storage: Storage::any(shape.elements()) }
    }

    /// The tensor of rank 0 that holds `value`.
    pub fn scalar(value: T) -> Self {
        Self::full([], value)
    }

    /// Elements in *logical* row-major order, the last axis fastest, as PyTorch and files write them.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements is not that of the shape.
    pub fn from_vec(shape: impl Into<Shape>, elements: Vec<T>) -> Result<Self> {
        let shape = shape.into();
        let tensor = Self::from_memory(shape, elements)?;
        Ok(if shape.is_row_major() { tensor } else { Self::from_logical(shape, tensor.as_slice()) })
    }

    /// Elements in *memory* order: `N, H, W, C` for rank 4, row-major otherwise. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements is not that of the shape.
    pub fn from_memory(shape: impl Into<Shape>, elements: Vec<T>) -> Result<Self> {
        let shape = shape.into();
        if elements.len() != shape.elements() {
            return Err(Error::shape(
                "tensor",
                "elements",
                format!("{} for {shape:?}", shape.elements()),
                &[elements.len()],
            ));
        }
        Ok(Tensor { shape, storage: Storage::from_vec(elements) })
    }

    /// Each element from its logical index.
    pub fn from_fn(shape: impl Into<Shape>, mut value: impl FnMut(&[usize]) -> T) -> Self {
        let shape = shape.into();
        let mut tensor = Self::zeros(shape);
        let (strides, memory) = (shape.strides(), tensor.as_mut_slice());
        for_each_index(&shape, |index| {
            let offset: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum();
            memory[offset] = value(index);
        });
        tensor
    }

    fn from_logical(shape: Shape, elements: &[T]) -> Self {
        let mut tensor = Tensor::any(shape);
        if let [_, c, h, w] = *shape {
            transpose_each(elements, [c, h * w], tensor.as_mut_slice());
        } else {
            tensor.as_mut_slice().copy_from_slice(elements);
        }
        tensor
    }

    /// The logical extents.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.elements()
    }

    /// Whether there are no elements at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents of a tensor of rank `R`: destructuring is the rank check.
    ///
    /// # Errors
    /// [`Error::Shape`], naming `op` and `arg`, if the rank is another.
    pub fn dims<const R: usize>(&self, op: &'static str, arg: &'static str) -> Result<[usize; R]> {
        <[usize; R]>::try_from(&self.shape[..]).map_err(|_| Error::shape(op, arg, format!("rank {R}"), &self.shape))
    }

    /// The elements in memory order.
    pub fn as_slice(&self) -> &[T] {
        self.storage.as_slice()
    }

    /// The elements in memory order, for writing; copied first where they are shared.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.storage.make_mut()
    }

    /// The elements in logical row-major order.
    pub fn to_vec(&self) -> Vec<T> {
        self.in_logical_order().as_slice().to_vec()
    }

    /// The elements in a row in logical order; shared where memory has them so.
    fn in_logical_order(&self) -> Self {
        let shape = Shape::from([self.len()]);
        match *self.shape {
            [_, c, h, w] if !self.shape.is_row_major() => {
                let mut elements = Tensor::any(shape);
                transpose_each(self.as_slice(), [h * w, c], elements.as_mut_slice());
                elements
            }
            _ => Tensor { shape, storage: self.storage.clone() },
        }
    }

    /// A view with logical indices, `x.view()[[n, c, i, j]]`, whatever the memory order.
    pub fn view(&self) -> ArrayViewD<'_, T> {
        let strides = self.shape.strides();
        let shape = IxDyn(&self.shape).strides(IxDyn(&strides[..self.shape.len()]));
        ArrayViewD::from_shape(shape, self.as_slice()).expect("strides of a dense tensor stay inside it")
    }

    /// The only element of a tensor with one element.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not exactly one.
    pub fn item(&self) -> Result<T> {
        match self.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::shape("item", "x", "one element", &self.shape)),
        }
    }

    /// The same elements in the same *logical* order under another shape, as PyTorch's `reshape`. Memory is shared
    /// where both orders agree and copied otherwise.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of elements differ.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elements() != self.len() {
            return Err(Error::shape(
                "reshape",
                "x",
                format!("{} elements for {shape:?}", shape.elements()),
                &self.shape,
            ));
        }
        if shape == self.shape {
            return Ok(self.clone());
        }
        let elements = self.in_logical_order();
        Ok(if shape.is_row_major() {
            Tensor { shape, storage: elements.storage }
        } else {
            Self::from_logical(shape, elements.as_slice())
        })
    }

    /// The same elements in the same *memory* order under another shape; always shared.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of elements differ.
    pub fn reshape_memory(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elements() != self.len() {
            let expected = format!("{} elements for {shape:?}", shape.elements());
            return Err(Error::shape("reshape_memory", "x", expected, &self.shape));
        }
        Ok(Tensor { shape, storage: self.storage.clone() })
    }

    /// The same values in another element type; f64 to f32 rounds to nearest.
    pub fn cast<U: Real>(&self) -> Tensor<U> {
        let elements = self.as_slice().iter().map(|v| U::of(v.f64())).collect();
        Tensor { shape: self.shape, storage: Storage::from_vec(elements) }
    }

    /// `f` of every element.
    #[must_use]
    pub fn map(&self, f: impl Fn(T) -> T) -> Self {
        let mut mapped = Tensor::any(self.shape);
        mapped.as_mut_slice().iter_mut().zip(self.as_slice()).for_each(|(y, &x)| *y = f(x));
        mapped
    }

    /// Changes every element in place, beside the element of `other` at the same place.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn zip_apply(&mut self, other: &Tensor<T>, mut f: impl FnMut(&mut T, T)) -> Result<()> {
        if self.shape != other.shape {
            return Err(Error::shape("zip", "other", format!("{:?}", self.shape), &other.shape));
        }
        for (a, &b) in self.as_mut_slice().iter_mut().zip(other.as_slice()) {
            f(a, b);
        }
        Ok(())
    }

    /// max |x|, 0 for an empty tensor; NaN if any element is NaN.
    pub fn max_abs(&self) -> T {
        self.as_slice().iter().fold(T::zero(), |max, v| if v.is_nan() || v.abs() > max { v.abs() } else { max })
    }

    /// max |x − y|.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn max_abs_diff(&self, other: &Tensor<T>) -> Result<T> {
        let mut difference = self.clone();
        difference.zip_apply(other, |a, b| *a -= b)?;
        Ok(difference.max_abs())
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        self.as_slice().iter().all(|v| v.is_finite())
    }
}

/// The matrices `[rows, columns]` of `from`, one after the other, transposed: the step between logical and memory order.
fn transpose_each<T: Real>(from: &[T], [rows, columns]: [usize; 2], to: &mut [T]) {
    let len = rows * columns;
    if len == 0 {
        return;
    }
    split(to, from.len() / len, len, |matrices, to| {
        let from = &from[matrices.start * len..];
        for (from, to) in from.chunks_exact(len).zip(to.chunks_exact_mut(len)) {
            transpose(from, columns, [rows, columns], to, rows);
        }
    });
}

/// Calls `f` with every logical index, the last axis fastest.
fn for_each_index(shape: &Shape, mut f: impl FnMut(&[usize])) {
    if shape.elements() == 0 {
        return;
    }
    let mut index = vec![0; shape.len()];
    loop {
        f(&index);
        let mut axis = shape.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

impl<T: Real> PartialEq for Tensor<T> {
    fn eq(&self, other: &Self) -> bool {
        self.shape == other.shape && self.as_slice() == other.as_slice()
    }
}

impl<T: Real> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor<{}>{:?} {}", T::DTYPE, self.shape, self.view())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting(shape: impl Into<Shape>) -> Tensor<f32> {
        let shape = shape.into();
        Tensor::from_vec(shape, (0..shape.elements()).map(|i| i as f32).collect()).unwrap()
    }

    #[test]
    fn logical_order_survives_the_memory_layout() {
        let x = counting([2, 3, 4, 5]);
        assert_eq!(x.view()[[1, 2, 3, 4]], 119.0);
        assert_eq!(x.view()[[0, 1, 0, 2]], 22.0);
        assert_eq!(x.as_slice()[..4], [0.0, 20.0, 40.0, 1.0]); // channels 0, 1, 2 of pixel 0, then pixel 1
        assert_eq!(x.to_vec(), (0..120).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn reshape_follows_logical_order() {
        let x = counting([2, 3, 4, 5]);
        let flat = x.reshape([2, 60]).unwrap();
        assert_eq!(flat.to_vec(), x.to_vec());
        assert_eq!(flat.reshape([2, 3, 4, 5]).unwrap(), x);
        assert_eq!(x.reshape([2, 6, 2, 5]).unwrap().to_vec(), x.to_vec());
        assert!(x.reshape([7]).is_err());
    }

    #[test]
    fn the_order_in_memory_is_kept_where_it_is_asked_for() {
        let x = counting([2, 3, 4, 5]);
        let flat = x.reshape_memory([2, 60]).unwrap();
        assert_eq!(flat.as_slice(), x.as_slice());
        assert_eq!(flat.reshape_memory([2, 3, 4, 5]).unwrap(), x);
        assert!(x.reshape_memory([7]).is_err());
    }

    #[test]
    fn large_maps_survive_the_memory_layout() {
        let x = counting([3, 33, 20, 21]); // over several tiles and tasks
        assert_eq!(x.view()[[2, 31, 18, 5]], (((2 * 33 + 31) * 20 + 18) * 21 + 5) as f32);
        assert_eq!(x.to_vec(), (0..x.len()).map(|i| i as f32).collect::<Vec<_>>());
    }

    #[test]
    fn writing_leaves_a_clone_alone() {
        let x = counting([3]);
        let mut y = x.clone();
        y.as_mut_slice()[0] = 7.0;
        assert_eq!((x.as_slice()[0], y.as_slice()[0]), (0.0, 7.0));
    }

    #[test]
    fn a_nan_is_not_hidden_by_max_abs() {
        let x = Tensor::from_vec([3], vec![1.0f64, f64::NAN, 2.0]).unwrap();
        assert!(x.max_abs().is_nan());
        assert!(!x.is_finite());
    }

    #[test]
    fn the_wrong_number_of_elements_is_an_error_with_numbers() {
        let error = Tensor::from_vec([2, 2], vec![1.0f32; 3]).unwrap_err().to_string();
        assert!(error.contains('3') && error.contains("4 for [2, 2]"), "{error}");
    }
}
