//! Gradients held against central differences, in f64.

use std::fmt;

use gatefold_tensor::random::randn;
use gatefold_tensor::{Error, Result, Tensor};

use crate::{Tape, Var};

/// Step, tolerances and seed of a check. An entry passes if |analytic − numeric| ≤ `atol` + `rtol`·|numeric|.
#[derive(Debug, Clone, Copy)]
pub struct GradCheck {
    /// The step h of the central difference (f(x + h) − f(x − h)) / 2h.
    pub step: f64,
    /// The absolute tolerance.
    pub atol: f64,
    /// The relative tolerance.
    pub rtol: f64,
    /// Names the random projection r of L = Σ r ⊙ f(x). With Σ f(x) the gradient through a batch norm is zero, and any
    /// mistake would pass.
    pub seed: u64,
}

impl Default for GradCheck {
    fn default() -> Self {
        GradCheck { step: 1e-6, atol: 1e-5, rtol: 1e-3, seed: 0 }
    }
}

/// The entry with the largest error, relative to what was allowed.
#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    /// Which input.
    pub input: usize,
    /// The entry's logical index in that input.
    pub index: Vec<usize>,
    /// What the sweep says.
    pub analytic: f64,
    /// What the central difference says.
    pub numeric: f64,
    /// |analytic − numeric| over what was allowed: above 1 the check fails.
    pub ratio: f64,
}

impl fmt::Display for Worst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Worst { input, index, analytic, numeric, ratio } = self;
        write!(
            f,
            "input {input} at {index:?}: analytic {analytic:.9e}, numeric {numeric:.9e}, {ratio:.2e} of what is allowed"
        )
    }
}

/// What a check that passed has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How many entries were compared.
    pub entries: usize,
    /// The worst of them.
    pub worst: Option<Worst>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub enum GradCheckError {
    /// The function itself failed.
    #[error(transparent)]
    Op(#[from] Error),
    /// A gradient is wrong.
    #[error("gradient and central difference disagree; worst entry: {0}")]
    Mismatch(Worst),
}

/// Checks the gradient of `f` with respect to every entry of every input, with the default step and tolerances.
///
/// # Errors
/// [`GradCheckError::Mismatch`] names the worst entry; [`GradCheckError::Op`] if `f` fails.
pub fn gradcheck(
    inputs: &[Tensor<f64>],
    f: impl Fn(&[Var<f64>]) -> Result<Var<f64>>,
) -> Result<Report, GradCheckError> {
    GradCheck::default().run(inputs, f)
}

impl GradCheck {
    /// Checks the gradient of `f` with respect to every entry of every input.
    ///
    /// # Errors
    /// [`GradCheckError::Mismatch`] names the worst entry; [`GradCheckError::Op`] if `f` fails.
    pub fn run(
        &self,
        inputs: &[Tensor<f64>],
        f: impl Fn(&[Var<f64>]) -> Result<Var<f64>>,
    ) -> Result<Report, GradCheckError> {
        let tape = Tape::new();
        let leaves: Vec<_> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
        let y = f(&leaves)?;
        let projection = randn::<f64>(*y.shape(), self.seed);
        let mut gradients = y.backward_with(projection.clone())?;
        let loss = |inputs: &[Tensor<f64>]| -> Result<f64> {
            let constants: Vec<_> = inputs.iter().map(|x| Var::constant(x.clone())).collect();
            let y = f(&constants)?;
            Ok(y.value().as_slice().iter().zip(projection.as_slice()).map(|(y, r)| y * r).sum())
        };
        let mut report = Report { entries: 0, worst: None };
        for (input, leaf) in leaves.iter().enumerate() {
            let analytic = gradients.take(leaf).unwrap_or_else(|| Tensor::zeros(*leaf.shape())).to_vec();
            for (entry, &analytic) in analytic.iter().enumerate() {
                let moved = |h: f64| -> Result<f64> {
                    let mut inputs = inputs.to_vec();
                    let mut elements = inputs[input].to_vec();
                    elements[entry] += h;
                    inputs[input] = Tensor::from_vec(*leaf.shape(), elements)?;
                    loss(&inputs)
                };
                let numeric = (moved(self.step)? - moved(-self.step)?) / (2.0 * self.step);
                let ratio = (analytic - numeric).abs() / (self.atol + self.rtol * numeric.abs());
                report.entries += 1;
                // A NaN on either side is as bad as can be.
                let ratio = if ratio.is_nan() { f64::INFINITY } else { ratio };
                if report.worst.as_ref().is_none_or(|worst| ratio > worst.ratio) {
                    let index = logical_index(entry, leaf.shape());
                    report.worst = Some(Worst { input, index, analytic, numeric, ratio });
                }
            }
        }
        match report.worst {
            Some(worst) if worst.ratio > 1.0 => Err(GradCheckError::Mismatch(worst)),
            _ => Ok(report),
        }
    }
}

/// The index of the `entry`-th element in logical row-major order.
fn logical_index(mut entry: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, extent) in index.iter_mut().zip(shape).rev() {
        *i = entry % extent;
        entry /= extent;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Sink};

    /// y = x², whose derivative forgets the factor 2 at one entry.
    struct WrongSquare(Tensor<f64>);

    impl Op<f64> for WrongSquare {
        fn name(&self) -> &'static str {
            "wrong_square"
        }

        fn backward(self: Box<Self>, mut dy: Tensor<f64>, dx: &mut Sink<'_, f64>) -> Result<()> {
            dy.zip_apply(&self.0, |d, x| *d *= 2.0 * x)?;
            dy.as_mut_slice()[4] *= 0.5;
            dx.add(0, dy)
        }
    }

    #[test]
    fn a_wrong_entry_is_found_and_named() {
        let x = randn::<f64>([2, 3], 1);
        let error = gradcheck(&[x], |v| {
            let y = v[0].value().map(|x| x * x);
            Ok(Tape::record(y, &[Some(&v[0])], || WrongSquare(v[0].value().clone())))
        });
        match error.unwrap_err() {
            GradCheckError::Mismatch(worst) => assert_eq!((worst.input, worst.index), (0, vec![1, 1])),
            other => panic!("{other}"),
        }
    }
}
