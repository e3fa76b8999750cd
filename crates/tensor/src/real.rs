//! The element types: f32 for training, f64 for gradient checks, folding and proofs.

use std::fmt::{Debug, Display};
use std::iter::Sum;

use num_traits::{Float, NumAssign};

use crate::pool::Pooled;
use crate::simd::Dispatch;

/// The name of an element type, as files and messages write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// An element of a tensor: `f32` or `f64`.
pub trait Real:
    sealed::Sealed + Dispatch + Pooled + Float + NumAssign + Sum + Debug + Display + Default + Send + Sync + 'static
{
    /// Which of the two this is.
    const DTYPE: Dtype;

    /// The nearest value of this type.
    fn of(value: f64) -> Self;

    /// The value as f64, exactly.
    fn f64(self) -> f64;

    /// `C ← α·A·B + β·C` for strided matrices, `A [m,k]`, `B [k,n]`, `C [m,n]`: matrixmultiply's kernel for this type.
    ///
    /// # Safety
    /// Every index `(i, j)` of each matrix must lie inside its allocation at `i·rs + j·cs`, and `c` must be
    /// writable and not overlap `a` or `b`.
    #[allow(unsafe_code, reason = "passes raw matrices on to matrixmultiply")]
    unsafe fn raw_gemm(
        dims: [usize; 3],
        alpha: Self,
        a: (*const Self, isize, isize),
        b: (*const Self, isize, isize),
        beta: Self,
        c: (*mut Self, isize, isize),
    );
}

macro_rules! real {
    ($t:ty, $dtype:expr, $gemm:path) => {
        impl Real for $t {
            const DTYPE: Dtype = $dtype;

            #[inline]
            fn of(value: f64) -> Self {
                value as $t
            }

            #[inline]
            fn f64(self) -> f64 {
                f64::from(self)
            }

            #[allow(unsafe_code, reason = "passes raw matrices on to matrixmultiply")]
            unsafe fn raw_gemm(
                [m, k, n]: [usize; 3],
                alpha: Self,
                (a, rsa, csa): (*const Self, isize, isize),
                (b, rsb, csb): (*const Self, isize, isize),
                beta: Self,
                (c, rsc, csc): (*mut Self, isize, isize),
            ) {
                // SAFETY: the caller keeps the contract above, which is matrixmultiply's.
                unsafe { $gemm(m, k, n, alpha, a, rsa, csa, b, rsb, csb, beta, c, rsc, csc) }
            }
        }
    };
}

real!(f32, Dtype::F32, matrixmultiply::sgemm);
real!(f64, Dtype::F64, matrixmultiply::dgemm);
