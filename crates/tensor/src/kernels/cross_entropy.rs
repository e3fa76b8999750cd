//! Cross-entropy of a softmax, with label smoothing s (Szegedy et al. 2016). K classes; sample n has label `t[n]`.
//! ```text
//! p[n,k]  = e^x[n,k] / Σ_j e^x[n,j]                     (ce.1)
//! q[n,k]  = (1 − s) · [k = t[n]] + s/K                  (ce.2)
//! L       = −1/N Σ_{n,k} q[n,k] · log p[n,k]            (ce.3)
//! dx[n,k] = dL/N · (p[n,k] − q[n,k])                    (ce.4)
//! ```
//! `−log p[n,k] = log Σ_j e^(x[n,j] − max) + max − x[n,k]`, which neither overflows nor takes the logarithm of 0.

use crate::{Error, Real, Result, Tensor};

/// The loss (ce.3) and the probabilities (ce.1), which the backward needs.
///
/// # Shapes
/// `logits [N,K]`, `labels [N]`, each below K → a scalar and `[N,K]`.
///
/// # Errors
/// [`Error::Shape`] if the shapes disagree or are empty; [`Error::Invalid`] if a label is not below K or the smoothing
/// not in [0, 1].
// ANCHOR: cross_entropy
pub fn cross_entropy<T: Real>(logits: &Tensor<T>, labels: &[usize], smoothing: f64) -> Result<(Tensor<T>, Tensor<T>)> {
    let [n, k] = check("cross_entropy", "logits", logits, labels, smoothing)?;
    let mut probabilities = logits.clone();
    let mut loss = 0.0;
    for (p, &label) in probabilities.as_mut_slice().chunks_exact_mut(k).zip(labels) {
        let max = p.iter().fold(T::neg_infinity(), |max, &x| max.max(x));
        p.iter_mut().for_each(|x| *x -= max);
        loss -= (1.0 - smoothing) * p[label].f64();
        if smoothing > 0.0 {
            loss -= smoothing / k as f64 * p.iter().map(|x| x.f64()).sum::<f64>();
        }
        p.iter_mut().for_each(|x| *x = x.exp());
        let sum: T = p.iter().copied().sum();
        p.iter_mut().for_each(|p| *p /= sum);
        loss += sum.f64().ln();
    }
    Ok((Tensor::scalar(T::of(loss / n as f64)), probabilities))
}

/// (ce.4), from the probabilities of [`cross_entropy`] and the gradient of the loss.
///
/// # Shapes
/// `probabilities [N,K]`, `labels [N]` → `[N,K]`.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_backward<T: Real>(
    probabilities: &Tensor<T>,
    labels: &[usize],
    smoothing: f64,
    dloss: T,
) -> Result<Tensor<T>> {
    let [n, k] = check("cross_entropy_backward", "probabilities", probabilities, labels, smoothing)?;
    let (everywhere, at_label) = (T::of(smoothing / k as f64), T::of(1.0 - smoothing));
    let factor = dloss / T::of(n as f64);
    let mut dx = probabilities.clone();
    for (dx, &label) in dx.as_mut_slice().chunks_exact_mut(k).zip(labels) {
        dx[label] -= at_label;
        dx.iter_mut().for_each(|dx| *dx = factor * (*dx - everywhere));
    }
    Ok(dx)
}
// ANCHOR_END: cross_entropy

/// N and K.
fn check<T: Real>(
    op: &'static str,
    arg: &'static str,
    x: &Tensor<T>,
    labels: &[usize],
    smoothing: f64,
) -> Result<[usize; 2]> {
    let [n, k] = x.dims(op, arg)?;
    if n == 0 || k == 0 {
        return Err(Error::shape(op, arg, "[N, K] with N ≥ 1 and K ≥ 1", x.shape()));
    }
    if labels.len() != n {
        return Err(Error::shape(op, "labels", format!("[{n}], one a row of {arg}"), &[labels.len()]));
    }
    if let Some((sample, label)) = labels.iter().enumerate().find(|&(_, &label)| label >= k) {
        return Err(Error::invalid(op, format!("label {label} of sample {sample} is not below the {k} classes")));
    }
    if !(0.0..=1.0).contains(&smoothing) {
        return Err(Error::invalid(op, format!("label smoothing is {smoothing}; it must lie in [0, 1]")));
    }
    Ok([n, k])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_close, assert_gradient, message};
    use crate::random::randn;
    use crate::reference::cross_entropy as reference;

    #[test]
    fn loss_and_gradient_are_the_definition() {
        for (n, k) in [(1, 1), (2, 3), (5, 10), (3, 100)] {
            for smoothing in [0.0, 0.1, 1.0] {
                let logits = randn::<f64>([n, k], 1).map(|x| 3.0 * x);
                let labels: Vec<usize> = (0..n).map(|i| i * 7 % k).collect();
                let (loss, p) = cross_entropy(&logits, &labels, smoothing).unwrap();
                assert_eq!(loss.shape().len(), 0);
                let expected = Tensor::scalar(reference::cross_entropy(&logits, &labels, smoothing));
                assert_close("loss", &loss, &expected, 1e-13);
                let dx = cross_entropy_backward(&p, &labels, smoothing, 1.0).unwrap();
                let expected = reference::cross_entropy_backward(&logits, &labels, smoothing);
                assert_close("dx", &dx, &expected, 1e-14);
                let dx = cross_entropy_backward(&p, &labels, smoothing, 2.5).unwrap();
                let of_logits = |x: &Tensor<f64>| cross_entropy(x, &labels, smoothing).unwrap().0;
                assert_gradient("dx", &logits, &dx, &Tensor::scalar(2.5), of_logits);
            }
        }
    }

    #[test]
    fn logits_of_any_size_give_the_exact_loss() {
        let logits = Tensor::from_vec([3, 2], vec![1e4f32, 0.0, 0.0, 1e4, -3e38, -3e38]).unwrap();
        let (loss, p) = cross_entropy(&logits, &[0, 0, 1], 0.0).unwrap();
        assert_eq!(p.as_slice(), [1.0, 0.0, 0.0, 1.0, 0.5, 0.5]);
        assert!((loss.item().unwrap() - (0.0 + 1e4 + 2f32.ln()) / 3.0).abs() < 1e-3);
        let certain = Tensor::from_vec([1, 2], vec![0.0f32, f32::NEG_INFINITY]).unwrap();
        assert_eq!(cross_entropy(&certain, &[0], 0.0).unwrap().0.item().unwrap(), 0.0);
    }

    #[test]
    fn wrong_arguments_are_errors_with_numbers() {
        let x = Tensor::<f32>::zeros([2, 3]);
        let error = message(cross_entropy(&x, &[0, 3], 0.0));
        assert_eq!(error, "cross_entropy: label 3 of sample 1 is not below the 3 classes");
        assert!(message(cross_entropy(&x, &[0], 0.0)).contains("`labels` has shape [1], expected [2]"));
        assert!(message(cross_entropy(&Tensor::<f32>::zeros([0, 3]), &[], 0.0)).contains("N ≥ 1"));
        assert!(message(cross_entropy(&Tensor::<f32>::zeros([3]), &[], 0.0)).contains("rank 2"));
        for smoothing in [-0.1, 1.1, f64::NAN] {
            assert!(message(cross_entropy(&x, &[0, 1], smoothing)).contains("label smoothing"));
        }
        assert!(message(cross_entropy_backward(&x, &[0, 9], 0.0, 1.0)).contains("label 9 of sample 1"));
    }
}
