//! Normalisation of images, channel by channel.
//!
//! ```text
//! v = u/maximum                                   u: the byte of a pixel
//! mean[c] = Σ v / n                               over all n pixels of channel c of the training files     (norm.1)
//! std[c]  = √( Σ (v − mean[c])² / n )             the population's deviation                               (norm.2)
//! x       = (v − mean[c]) / std[c]                                                                         (norm.3)
//! ```
//! (norm.1) and (norm.2) are taken in f64 from a count of the 256 values, which is exact and needs one pass.

use gatefold_tensor::{Real, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Dataset, Error, Result};

/// Mean and deviation per channel, of pixels scaled to 0..1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Normalisation {
    /// Mean of each channel, length C.
    pub mean: Vec<f64>,
    /// Population deviation of each channel, length C. A channel that is constant has 0 and is only shifted.
    pub std: Vec<f64>,
}

impl Normalisation {
    /// (norm.1) and (norm.2) over all images of `data`; image files are decoded one after the other, as they are evaluated.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no images; [`Error::Broken`] or [`Error::Io`] if an image file cannot be read.
    pub fn of(data: &Dataset) -> Result<Self> {
        if data.is_empty() {
            return Err(Error::invalid("normalisation", "a set without images has no mean"));
        }
        let [channels, h, w] = data.shape();
        let counts = match data.pixels() {
            Some(pixels) => pixels
                .par_chunks(channels * (1 << 16))
                .map(|chunk| Ok(Counts::of(chunk, channels)))
                .try_reduce_with(Counts::add),
            None => (0..data.len())
                .into_par_iter()
                .map(|i| Ok(Counts::of(&data.image(i)?, channels)))
                .try_reduce_with(Counts::add),
        };
        let Counts(counts) = counts.expect("there are images")?;
        let maximum = f64::from(data.maximum());
        let n = (data.len() * h * w) as f64;
        let moment = |counts: &[u64; 256], f: &dyn Fn(f64) -> f64| {
            counts.iter().enumerate().map(|(u, &count)| count as f64 * f(u as f64 / maximum)).sum::<f64>() / n
        };
        let mean: Vec<f64> = counts.iter().map(|counts| moment(counts, &|v| v)).collect();
        let std = counts.iter().zip(&mean).map(|(counts, m)| moment(counts, &|v| (v - m) * (v - m)).sqrt()).collect();
        Ok(Normalisation { mean, std })
    }

    /// (norm.3) as tables: entry `256·c + u` is x for the byte `u` in channel `c`, computed in f64 and rounded once to `T`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if mean and deviation do not belong to `channels` channels, or `maximum` is 0.
    pub fn tables<T: Real>(&self, channels: usize, maximum: u8) -> Result<Vec<T>> {
        if self.mean.len() != channels || self.std.len() != channels || maximum == 0 {
            let (means, deviations) = (self.mean.len(), self.std.len());
            let why = format!("{means} means and {deviations} deviations for {channels} channels of 0..={maximum}");
            return Err(Error::invalid("normalisation", why));
        }
        let entry = |mean: f64, std: f64, u: u8| {
            let shifted = f64::from(u) / f64::from(maximum) - mean;
            T::of(if std == 0.0 { shifted } else { shifted / std })
        };
        let channels = self.mean.iter().zip(&self.std);
        Ok(channels.flat_map(|(&mean, &std)| (0..=255).map(move |u| entry(mean, std, u))).collect())
    }

    /// Images that come from no data set, for example from the files of a prediction: `pixels` 0..=`maximum` in the order
    /// `N, H, W, C` → `[N, C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Tensor`] if `shape` = `[N, C, H, W]` fits neither the pixels nor the channels.
    pub fn apply<T: Real>(&self, pixels: &[u8], shape: [usize; 4], maximum: u8) -> Result<Tensor<T>> {
        let tables = self.tables::<T>(shape[1], maximum)?;
        let normalised =
            pixels.iter().enumerate().map(|(i, &u)| tables[256 * (i % shape[1]) + usize::from(u)]).collect();
        Ok(Tensor::from_memory(shape, normalised)?)
    }
}

/// How often each byte occurs in each channel. Whole numbers: the order of the sums does not matter.
struct Counts(Vec<[u64; 256]>);

impl Counts {
    fn of(pixels: &[u8], channels: usize) -> Self {
        let mut counts = vec![[0; 256]; channels];
        for pixel in pixels.chunks_exact(channels) {
            for (counts, &u) in counts.iter_mut().zip(pixel) {
                counts[usize::from(u)] += 1;
            }
        }
        Counts(counts)
    }

    fn add(mut self, other: Self) -> Result<Self> {
        self.0.iter_mut().flatten().zip(other.0.iter().flatten()).for_each(|(a, b)| *a += b);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two channels of two pixels an image: channel 0 takes 0, 255, 51, 102; channel 1 is constant.
    fn data() -> Dataset {
        let pixels = vec![0, 9, 255, 9, 51, 9, 102, 9];
        Dataset::new("small", [2, 1, 2], 255, vec!["a".into()], pixels, vec![0, 0]).unwrap()
    }

    #[test]
    fn mean_and_deviation_follow_their_definition() {
        let n = Normalisation::of(&data()).unwrap();
        let v = [0.0, 1.0, 0.2, 0.4];
        let mean = v.iter().sum::<f64>() / 4.0;
        let std = (v.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 4.0).sqrt();
        assert!((n.mean[0] - mean).abs() < 1e-15 && (n.std[0] - std).abs() < 1e-15, "{n:?}");
        assert!((n.mean[1] - 9.0 / 255.0).abs() < 1e-15 && n.std[1] == 0.0, "{n:?}");
    }

    #[test]
    fn a_table_normalises_in_f64_and_rounds_once() {
        let n = Normalisation { mean: vec![0.25, 0.5], std: vec![0.3, 0.0] };
        let (wide, narrow) = (n.tables::<f64>(2, 16).unwrap(), n.tables::<f32>(2, 16).unwrap());
        for u in 0..=16 {
            assert_eq!(wide[u], (u as f64 / 16.0 - 0.25) / 0.3);
            assert_eq!(wide[256 + u], u as f64 / 16.0 - 0.5); // a constant channel is only shifted
            assert_eq!(narrow[u], wide[u] as f32);
        }
        assert!(n.tables::<f32>(3, 16).unwrap_err().to_string().contains("3 channels"));
    }

    #[test]
    fn single_images_are_normalised_as_a_set_is() {
        let n = Normalisation::of(&data()).unwrap();
        let x = n.apply::<f64>(&data().image(1).unwrap(), [1, 2, 1, 2], 255).unwrap();
        assert_eq!(x.view()[[0, 0, 0, 1]], (102.0 / 255.0 - n.mean[0]) / n.std[0]);
        assert_eq!(x.view()[[0, 1, 0, 0]], 9.0 / 255.0 - n.mean[1]);
        let sixteenths = n.apply::<f64>(&[16, 0, 0, 8], [1, 2, 1, 2], 16).unwrap();
        assert_eq!(sixteenths.view()[[0, 0, 0, 0]], (1.0 - n.mean[0]) / n.std[0]);
        assert_eq!(sixteenths.view()[[0, 1, 0, 1]], 0.5 - n.mean[1]);
        assert!(n.apply::<f64>(&[0; 5], [1, 2, 1, 2], 255).is_err());
    }

    #[test]
    fn a_normalisation_survives_json() {
        let n = Normalisation { mean: vec![0.491_400_1, 1.0 / 3.0], std: vec![0.247, f64::MIN_POSITIVE] };
        let text = serde_json::to_string(&n).unwrap();
        assert_eq!(serde_json::from_str::<Normalisation>(&text).unwrap(), n);
    }
}
