//! Reverse-mode differentiation over coarse tensor operations.
//!
//! The tape knows order and routing, the kernels of `gatefold-tensor` know the mathematics. An operation on [`Var`]s
//! computes its value at once and, if any of its inputs is on a tape, leaves an [`Op`] there that knows how to send a
//! gradient back. [`Var::backward`] sweeps the tape from its end; each op is consumed on the way, so that what it
//! saved dies as the sweep passes.
//!
//! ```
//! use gatefold_autograd::Tape;
//! use gatefold_tensor::Tensor;
//!
//! # fn main() -> gatefold_tensor::Result<()> {
//! let tape = Tape::new();
//! let x = tape.leaf(Tensor::from_vec([3], vec![1.0f64, -2.0, 3.0])?);
//! let loss = x.mul(&x)?.relu().sum(&[0], false)?; // Σ x²
//! let mut gradients = loss.backward()?;
//! assert_eq!(gradients.take(&x).unwrap().to_vec(), [2.0, -4.0, 6.0]);
//! # Ok(())
//! # }
//! ```

pub mod cases;
mod gradcheck;
mod gradient;
mod ops;
pub mod profile;
mod tape;
mod var;

pub use gradcheck::{GradCheck, GradCheckError, Report, Worst, gradcheck};
pub use gradient::Gradient;
pub use ops::batch_norm::{BatchNormStats, NormBy};
pub use ops::folded_site::{SampleMoments, SiteLayer, SiteStats};
pub use tape::{Gradients, Op, Sink, Tape};
pub use var::Var;
