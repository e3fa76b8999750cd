//! A moving average of the weights (Polyak and Juditsky 1992; in the exponential form of timm's `ModelEma` and torchvision's
//! references).
//!
//! ```text
//! e ← d·e + (1 − d)·p      after each step; e begins at the initial values           (ema.1)
//! ```
//! p runs over the parameters and the running statistics; any other buffer is copied. Denormals become zero, as in the
//! optimiser.

use std::collections::BTreeMap;

use gatefold_layers::{Entry, Walk};
use gatefold_models::Model;
use gatefold_tensor::{Error, Real, Tensor};

use crate::Result;
use crate::optimiser::normal;

/// e of every value, by state-dict key.
pub(crate) struct Average<T: Real> {
    /// d, at least 0 and below 1.
    decay: f64,
    values: BTreeMap<String, Tensor<T>>,
}

impl<T: Real> Average<T> {
    /// Begins at the values of `network`.
    pub fn new(decay: f64, network: &dyn Walk<T>) -> Self {
        Average { decay, values: network.state() }
    }

    /// Goes on from the values of a checkpoint.
    pub fn resume(decay: f64, values: BTreeMap<String, Tensor<T>>) -> Self {
        Average { decay, values }
    }

    /// What a checkpoint stores.
    pub fn values(&self) -> &BTreeMap<String, Tensor<T>> {
        &self.values
    }

    /// (ema.1).
    ///
    /// # Errors
    /// [`Error::Shape`] if the network has other shapes.
    pub fn update(&mut self, network: &dyn Walk<T>) -> Result<()> {
        let (keep, take) = (T::of(self.decay), T::of(1.0 - self.decay));
        let (values, mut result) = (&mut self.values, Ok(()));
        network.walk("", &mut |key, entry| {
            let averaged = matches!(entry, Entry::Param(_)) || is_running(key);
            match values.get_mut(key) {
                Some(e) if averaged => {
                    let updated = e.zip_apply(entry.value(), |e, p| *e = normal(keep * *e + take * p));
                    result = std::mem::replace(&mut result, Ok(())).and(updated);
                }
                _ => {
                    values.insert(key.to_owned(), entry.value().clone());
                }
            }
        });
        Ok(result?)
    }

    /// The averaged weights as a model of their own, which `of` describes.
    ///
    /// # Errors
    /// If the values do not fit the description.
    pub fn model(&self, of: &Model<T>) -> Result<Model<T>> {
        let mut model = Model::new(of.description.clone(), 0)?;
        model.network.load(&self.values).map_err(|e| Error::invalid("average", e.to_string()))?;
        Ok(model)
    }
}

/// Whether a buffer is a running statistic.
fn is_running(key: &str) -> bool {
    key.ends_with("running_mean") || key.ends_with("running_var")
}

#[cfg(test)]
mod tests {
    use gatefold_layers::{Buffer, Param, walk_fields};

    use super::*;

    struct Net<T: Real> {
        weight: Param<T>,
        running_mean: Buffer<T>,
        temperature: Buffer<T>,
    }

    walk_fields!(impl<T> Net<T> { weight, running_mean, temperature });

    fn net(value: f64) -> Net<f64> {
        let value = || Tensor::full([2], value);
        Net { weight: Param::new(value()), running_mean: Buffer::new(value()), temperature: Buffer::new(value()) }
    }

    #[test]
    fn values_are_those_computed_by_hand() {
        // d = 0.75: 8, then 0.75·8 + 0.25·4 = 7, then 0.75·7 + 0.25·(−1) = 5. A temperature is what it is.
        let mut average = Average::new(0.75, &net(8.0));
        for (value, expected) in [(4.0, 7.0), (-1.0, 5.0)] {
            average.update(&net(value)).unwrap();
            let of = |key: &str| average.values()[key].to_vec();
            assert_eq!((of("weight"), of("running_mean")), (vec![expected; 2], vec![expected; 2]));
            assert_eq!(of("temperature"), [value; 2]);
        }
    }

    #[test]
    fn an_average_goes_on_from_its_values() {
        let mut through = Average::new(0.9, &net(1.0));
        through.update(&net(0.3)).unwrap();
        let mut resumed = Average::resume(0.9, through.values().clone());
        through.update(&net(0.7)).unwrap();
        resumed.update(&net(0.7)).unwrap();
        assert_eq!(through.values(), resumed.values());
    }

    #[test]
    fn denormals_become_zero() {
        let mut average = Average::new(0.5, &net(1.5 * f64::MIN_POSITIVE));
        average.update(&net(0.0)).unwrap();
        assert_eq!(average.values()["weight"].to_vec(), [0.0; 2]);
    }
}
