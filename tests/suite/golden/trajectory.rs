//! Twenty steps of SGD on SmallNet by the program's own loop, from PyTorch's initial values on images by formula.

use std::collections::BTreeMap;
use std::sync::Arc;

use gatefold_data::{Dataset, Kind, Loaded, Normalisation, Split};
use gatefold_layers::{ConvKind, Cx, Walk};
use gatefold_models::{Stored, file};
use gatefold_tensor::{Real, Tensor};
use gatefold_train::evaluate::{batches, evaluate};
use gatefold_train::{Config, Epoch, Outcome, RunDir, Step, Trainer, Watch};
use safetensors::Dtype;

use super::{Case, Golden};

const KINDS: [(&str, &str); 3] =
    [("static", "smallnet-static"), ("maconv", "smallnet-maconv"), ("mdconv", "smallnet-mdconv")];
const STEPS: usize = 20;
const BATCH: usize = 8;
const EVALUATED: usize = 16;

#[test]
fn training_in_f64_follows_pytorch() {
    for (kind, file) in KINDS {
        let golden = Golden::without_cases(file);
        let all = golden.part("");
        assert_eq!(pixels(0, 1), channels_last(&all.data("first_image", &[Dtype::U8]).2), "{kind}: image 0");

        let run = Run::<f64>::new(kind, &golden, "initial", 1);
        let first = first_images(run.trainer.train());
        let cx = Cx::train();
        let x = batches(&run.trainer.model, &first).unwrap().next().unwrap().unwrap().images;
        let logits = run.trainer.model.network.forward(&cx, &cx.input(x, false)).unwrap();
        close(&all, "first_logits", logits.value());
        let one = run.train();
        for (key, gradient) in one.first_gradient(&golden) {
            close(&golden.part("gradient"), &key, &gradient);
        }

        let done = Run::<f64>::new(kind, &golden, "initial", STEPS).train();
        let losses = all.tensor::<f64>("losses").to_vec();
        let mut sum = 0.0;
        for (step, (mean, loss)) in done.means.iter().zip(&losses).enumerate() {
            sum += loss;
            let expected = sum / (step + 1) as f64;
            assert!((mean - expected).abs() <= 1e-9 * expected, "{kind}: mean loss {mean} at {step}, not {expected}");
        }
        assert_eq!(done.means.len(), losses.len());
        let state = done.trainer.model.network.state();
        assert_eq!(state.keys().cloned().collect::<Vec<_>>(), sorted(golden.part("final").below("")), "{kind}");
        for (key, value) in &state {
            close(&golden.part("final"), key, value);
        }
        assert_eq!(done.trainer.test().labels(), all.labels());
        close(&all, "logits", &logits_of(&done.trainer));
        golden.assert_all_used();
    }
}

#[test]
fn training_in_f32_begins_as_pytorch_does_in_f64() {
    for (kind, file) in KINDS {
        let golden = Golden::without_cases(file);
        let done = Run::<f32>::new(kind, &golden, "initial", 1).train();
        let loss = golden.part("").tensor::<f64>("losses").to_vec()[0];
        assert!((done.means[0] - loss).abs() <= 1e-5, "{kind}: first loss {}, not {loss}", done.means[0]);

        // As one vector: an activation next to zero may fall on the other side of its rectifier and change a few entries.
        let (mut apart, mut length) = (0.0, 0.0);
        for (key, gradient) in done.first_gradient(&golden) {
            let expected = golden.part("gradient").tensor::<f64>(&key);
            for (a, b) in gradient.cast::<f64>().to_vec().into_iter().zip(expected.to_vec()) {
                apart += (a - b) * (a - b);
                length += b * b;
            }
        }
        assert!(apart.sqrt() <= 0.03 * length.sqrt(), "{kind}: gradients {:e} apart", (apart / length).sqrt());
    }
}

#[test]
fn trained_weights_in_f32_give_pytorchs_logits() {
    for (kind, file) in KINDS {
        let golden = Golden::without_cases(file);
        let run = Run::<f32>::new(kind, &golden, "final", 1);
        golden.part("").compare_at_scale("logits", &logits_of(&run.trainer), 1e-5, 0.0);
    }
}

/// |Δ| ≤ 1e-9 · max(max |v|, 1e-2).
fn close<T: Real>(golden: &Case<'_>, key: &str, found: &Tensor<T>) {
    golden.compare_at_scale(key, found, 1e-9, 1e-2);
}

/// A network about to train from the values below a prefix of the golden file, read from a plain safetensors file.
struct Run<T: Real> {
    folder: tempfile::TempDir,
    trainer: Trainer<T>,
    initial: BTreeMap<String, Tensor<T>>,
}

/// The same, trained.
struct Done<T: Real> {
    run: RunDir,
    trainer: Trainer<T>,
    initial: BTreeMap<String, Tensor<T>>,
    /// After each step, the mean loss so far.
    means: Vec<f64>,
    _folder: tempfile::TempDir,
}

impl<T: Real> Run<T> {
    fn new(kind: &str, golden: &Golden, values: &str, steps: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let init = folder.path().join("init.safetensors");
        let part = golden.part(values);
        let stored = part.below("").into_iter().map(|key| (key.clone(), Stored::from(&part.tensor::<f64>(&key))));
        file::write(&init, None, &stored.collect()).unwrap();
        let config = Config {
            conv: ConvKind::named(kind).unwrap(),
            batch_size: BATCH,
            steps: Some(steps),
            init: Some(init),
            augment: false,
            shuffle: false,
            ..Config::defaults(Kind::Cifar10)
        };
        let trainer = Trainer::new(config, loaded()).unwrap();
        let initial = trainer.model.network.state();
        Run { folder, trainer, initial }
    }

    fn train(self) -> Done<T> {
        let Run { folder, mut trainer, initial } = self;
        let run = RunDir::create(&folder.path().join("run"), trainer.config()).unwrap();
        let mut means = Means(Vec::new());
        assert_eq!(trainer.run(&run, &mut means).unwrap(), Outcome::Finished);
        Done { run, trainer, initial, means: means.0, _folder: folder }
    }
}

impl<T: Real> Done<T> {
    /// The gradient of the first step, from the momenta in the checkpoint after it: v = g + λp.
    fn first_gradient(&self, golden: &Golden) -> BTreeMap<String, Tensor<T>> {
        let mut contents = file::read(&self.run.last_checkpoint()).unwrap();
        let keys = sorted(golden.part("gradient").below(""));
        let decay = T::of(self.trainer.config().weight_decay);
        let gradients = keys.into_iter().map(|key| {
            let mut v = contents.tensors.remove(&format!("optimizer.momentum.{key}")).unwrap().to::<T>();
            v.zip_apply(&self.initial[&key], |v, p| *v -= decay * p).unwrap();
            (key, v)
        });
        gradients.collect()
    }
}

struct Means(Vec<f64>);

impl Watch for Means {
    fn step(&mut self, step: &Step) {
        self.0.push(step.loss);
    }

    fn epoch(&mut self, _: &Epoch) {}

    fn stop(&self) -> bool {
        false
    }
}

fn logits_of<T: Real>(trainer: &Trainer<T>) -> Tensor<T> {
    let mut logits = Vec::new();
    evaluate(&trainer.model, trainer.test(), |batch| logits.extend(batch.to_vec())).unwrap();
    Tensor::from_vec([trainer.test().len(), logits.len() / trainer.test().len()], logits).unwrap()
}

fn first_images(data: &Dataset) -> Arc<Dataset> {
    let mut first = data.clone();
    first.truncate(BATCH);
    Arc::new(first)
}

fn sorted(mut keys: Vec<String>) -> Vec<String> {
    keys.sort();
    keys
}

/// The images by formula, with the normalisation of the golden files.
fn loaded() -> Loaded {
    let normalisation = Normalisation { mean: vec![0.48, 0.49, 0.5], std: vec![0.2, 0.21, 0.22] };
    let split = Split { train: images(0, STEPS * BATCH), test: images(STEPS * BATCH, EVALUATED) };
    Loaded { split, normalisation, remarks: Vec::new() }
}

fn images(first: usize, count: usize) -> Dataset {
    let labels = (first..first + count).map(|n| label(n as u32) as usize).collect();
    let classes = (0..10).map(|class| class.to_string()).collect();
    Dataset::new("cifar10", [3, 32, 32], 255, classes, pixels(first, count), labels).unwrap()
}

/// `N, H, W, C`.
fn pixels(first: usize, count: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(count * 3 * 32 * 32);
    for n in first..first + count {
        for (i, j) in (0..32).flat_map(|i| (0..32).map(move |j| (i, j))) {
            pixels.extend((0..3).map(|c| pixel(n as u32, c, i, j)));
        }
    }
    pixels
}

/// `C, H, W` → `H, W, C`.
fn channels_last(image: &[u8]) -> Vec<u8> {
    (0..32 * 32).flat_map(|at| (0..3).map(move |c| image[c * 32 * 32 + at])).collect()
}

fn label(n: u32) -> u32 {
    mix(n + 1) % 10
}

fn pixel(n: u32, c: u32, i: u32, j: u32) -> u8 {
    let wave = ((label(n) + 1) * i + (label(n) % 3 + c) * j) % 64;
    let noise = mix((((3 * n + c) * 32 + i) * 32 + j) ^ 0x9e37_79b9) % 128;
    u8::try_from(4 * wave.min(63 - wave) + noise).unwrap()
}

fn mix(mut v: u32) -> u32 {
    v = (v ^ (v >> 16)).wrapping_mul(0x7feb_352d);
    v = (v ^ (v >> 15)).wrapping_mul(0x846c_a68b);
    v ^ (v >> 16)
}

#[test]
fn the_formula_of_the_images_is_the_scripts() {
    assert_eq!(mix(1), 0x6889_90c0);
    assert_eq!((0..10).map(label).collect::<Vec<_>>(), [2, 5, 3, 1, 6, 7, 8, 8, 9, 3]);
    assert_eq!((0..6).map(|j| pixel(0, 0, 0, j)).collect::<Vec<_>>(), [82, 116, 94, 76, 61, 94]);
    assert_eq!((26..32).map(|j| pixel(9, 2, 31, j)).collect::<Vec<_>>(), [134, 58, 138, 107, 76, 84]);
    assert_eq!(pixels(0, 10).iter().map(|&p| u32::from(p)).sum::<u32>(), 3_862_113);
}
