//! The training loop.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use gatefold_data::{Augment, Dataset, Loader, Options};
use gatefold_layers::{ConvKind, Cx, Mode, Walk};
use gatefold_models::{Backbone, Description, Model, Normalisation, file};
use gatefold_tensor::{Real, Tensor};

use crate::checkpoint::{self, Progress};
use crate::error::NotFinite;
use crate::evaluate::{Evaluation, evaluate, normalisation};
use crate::step::{self, Taken};
use crate::{Config, Epoch, Error, Metrics, Result, RunDir, Sgd, plots};

/// Watches a run, and may stop it.
pub trait Watch {
    /// After each optimiser step.
    fn step(&mut self, step: &Step);
    /// After each epoch's evaluation.
    fn epoch(&mut self, epoch: &Epoch);
    /// Whether to stop now, with a checkpoint.
    fn stop(&self) -> bool;
}

/// Where a run stands after a step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The epoch under way, from 0.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Batches finished of this epoch.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Images of this step.
    pub images: usize,
    /// The mean loss of the epoch so far.
    pub loss: f64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs, or all the steps asked for.
    Finished,
    /// Stopped by the watcher; the checkpoint is written.
    Interrupted,
}

/// A network in training.
pub struct Trainer<T: Real> {
    config: Config,
    /// The network.
    pub model: Model<T>,
    sgd: Sgd<T>,
    progress: Progress,
    train: Arc<Dataset>,
    test: Arc<Dataset>,
    last_accuracy: Option<f64>,
}

impl<T: Real> Trainer<T> {
    /// A new network for `loaded`, with initial values named by the seed or taken from the file that the configuration
    /// names.
    ///
    /// # Errors
    /// If the options do not fit the backbone, or the file does not fit the network.
    pub fn new(config: Config, loaded: gatefold_data::Loaded) -> Result<Self> {
        let train = &loaded.split.train;
        let description = Description {
            backbone: config.backbone,
            width: config.width,
            conv: config.conv.clone(),
            folded: false,
            input: train.shape(),
            classes: train.classes().to_vec(),
            dataset: config.dataset.clone(),
            normalisation: Normalisation {
                maximum: train.maximum(),
                mean: loaded.normalisation.mean.clone(),
                std: loaded.normalisation.std.clone(),
            },
        };
        let mut model = Model::new(description, config.seed)?;
        if let Some(path) = &config.init {
            initialise(&mut model, Path::new(path))?;
        }
        Ok(Self::assemble(config, model, Progress::default(), loaded))
    }

    /// A run as its last checkpoint left it.
    ///
    /// # Errors
    /// If the checkpoint cannot be read or is not one of this run.
    pub fn resume(config: Config, loaded: gatefold_data::Loaded, path: &Path) -> Result<Self> {
        let (model, momenta, progress) = checkpoint::load(path)?;
        same_network(&config, &model.description).map_err(|problem| Error::Checkpoint {
            path: path.to_owned(),
            problem,
            remedy: Some(
                "put the options of the network back into `config.toml`, or begin anew with \
                 `gatefold train --config FILE --out DIR`"
                    .to_owned(),
            ),
        })?;
        let mut trainer = Self::assemble(config, model, progress, loaded);
        trainer.sgd.load_velocity(momenta, &*trainer.model.network)?;
        Ok(trainer)
    }

    fn assemble(config: Config, model: Model<T>, progress: Progress, loaded: gatefold_data::Loaded) -> Self {
        let sgd = Sgd::new(config.momentum, config.weight_decay);
        let gatefold_data::Split { train, test } = loaded.split;
        Trainer { config, model, sgd, progress, train: Arc::new(train), test: Arc::new(test), last_accuracy: None }
    }

    /// What the run computes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of trained values.
    pub fn parameters(&self) -> usize {
        self.model.network.parameters()
    }

    /// The training images.
    pub fn train(&self) -> &Arc<Dataset> {
        &self.train
    }

    /// The test accuracy of the last epoch evaluated, in percent.
    pub fn last_accuracy(&self) -> Option<f64> {
        self.last_accuracy
    }

    /// How far the run has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The held-out images.
    pub fn test(&self) -> &Arc<Dataset> {
        &self.test
    }

    /// Trains until the end, or until the watcher stops it; checkpoints, metrics and plots go to `dir`.
    ///
    /// # Errors
    /// [`Error::Diverged`] names the layer where the first NaN or infinity arose; else as the loader and the files.
    pub fn run(&mut self, dir: &RunDir, watch: &mut dyn Watch) -> Result<Outcome> {
        let mut metrics = Metrics::open(dir, self.progress.epoch)?;
        self.last_accuracy = metrics.epochs().last().map(|epoch| epoch.test_accuracy);
        if self.progress == Progress::default() {
            // Before the first step, so that a run that is killed early can be resumed too.
            self.save(dir)?;
        }
        let over = |run: &Self| run.progress.epoch >= run.config.epochs || run.steps_done();
        if over(self) {
            // Taken up again after its end, perhaps within an epoch that `metrics` no longer knows.
            self.last_accuracy = Some(evaluate(&self.model, &self.test, |_| {})?.accuracy());
        }
        while !over(self) {
            let started = Instant::now();
            let images_before = self.progress.seen;
            if self.train_epoch(watch)? == Outcome::Interrupted {
                self.save(dir)?;
                return Ok(Outcome::Interrupted);
            }
            let seconds = started.elapsed().as_secs_f64();
            let evaluation = evaluate(&self.model, &self.test, |_| {})?;
            let epoch = self.summarise(&evaluation, seconds, self.progress.seen - images_before);
            self.last_accuracy = Some(epoch.test_accuracy);
            self.finish_epoch(dir, &mut metrics, &epoch)?;
            watch.epoch(&epoch);
        }
        Ok(Outcome::Finished)
    }

    fn steps_done(&self) -> bool {
        self.config.steps.is_some_and(|steps| self.progress.step >= steps)
    }

    fn save(&self, dir: &RunDir) -> Result<()> {
        Ok(checkpoint::save(&dir.last_checkpoint(), &self.model, &self.sgd, &self.progress)?)
    }

    /// The rest of the epoch under way.
    fn train_epoch(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        let Config { batch_size, seed, shuffle, augment, pad, flip, epochs, .. } = self.config;
        let augment = augment.then_some(Augment { pad, flip });
        let options = Options { batch_size, seed, shuffle, augment };
        let epoch = self.progress.epoch;
        let lr = self.config.lr_at(epoch);
        self.config.conv.begin_epoch(epoch, &mut *self.model.network);
        let batches = self.train.len().div_ceil(batch_size);
        let mut loader = Loader::new(&self.train, &normalisation(&self.model), &options, epoch, self.progress.batch)?;
        while let Some(batch) = loader.next() {
            let batch = batch?;
            if watch.stop() {
                return Ok(Outcome::Interrupted);
            }
            let (loss, correct) = self.step(&batch.images, &batch.labels, lr)?;
            let images = batch.labels.len();
            loader.recycle(batch);
            let progress = &mut self.progress;
            progress.batch += 1;
            progress.step += 1;
            progress.loss_sum += loss * images as f64;
            progress.correct += correct;
            progress.seen += images;
            let loss = progress.loss_sum / progress.seen as f64;
            watch.step(&Step { epoch, epochs, batch: progress.batch, batches, images, loss });
            if self.steps_done() {
                break;
            }
        }
        Ok(Outcome::Finished)
    }

    /// One optimiser step: the batch's mean loss, and how many images were classified right.
    fn step(&mut self, images: &Tensor<T>, labels: &[usize], lr: f64) -> Result<(f64, usize)> {
        let step = step::Step { images, labels, label_smoothing: self.config.label_smoothing, lr };
        match step::step(&mut *self.model.network, &mut self.sgd, &step, |_| {})? {
            Taken::Step { loss, correct } => Ok((loss, correct)),
            Taken::LossNotFinite => Err(self.diverged(images)),
            Taken::ValueNotFinite(value) => Err(self.diverged_at(value)),
        }
    }

    /// Runs the forward pass again and names the first layer that puts out a NaN or an infinity.
    fn diverged(&self, images: &Tensor<T>) -> Error {
        let mut first = None;
        let cx = Cx::new(Mode::Train, false).observed(|path, _, y| {
            if first.is_none() && !y.value().is_finite() {
                first = Some(path.to_owned());
            }
        });
        // Whether this pass ends well does not matter: what it has seen so far is the answer.
        let _ = self.model.network.forward(&cx, &cx.input(images.clone(), false));
        drop(cx);
        self.diverged_at(first.map_or(NotFinite::Loss, NotFinite::Output))
    }

    fn diverged_at(&self, what: NotFinite) -> Error {
        Error::Diverged { epoch: self.progress.epoch, step: self.progress.step as u64, what }
    }

    fn summarise(&self, test: &Evaluation, seconds: f64, images: usize) -> Epoch {
        let Progress { epoch, loss_sum, correct, seen, .. } = self.progress;
        Epoch {
            epoch,
            lr: self.config.lr_at(epoch),
            train_loss: loss_sum / seen.max(1) as f64,
            train_accuracy: 100.0 * correct as f64 / seen.max(1) as f64,
            test_loss: test.loss,
            test_accuracy: test.accuracy(),
            images_per_second: images as f64 / seconds,
            seconds,
        }
    }

    fn finish_epoch(&mut self, dir: &RunDir, metrics: &mut Metrics, epoch: &Epoch) -> Result<()> {
        let complete = self.progress.batch == self.train.len().div_ceil(self.config.batch_size);
        let is_best = self.progress.best.is_none_or(|best| epoch.test_accuracy > best);
        if is_best {
            self.progress.best = Some(epoch.test_accuracy);
        }
        if complete {
            let Progress { epoch, step, best, .. } = self.progress;
            self.progress = Progress { epoch: epoch + 1, step, best, ..Progress::default() };
        }
        // Metrics before the checkpoint: on resume they are cut back to it.
        metrics.append(epoch)?;
        plots::write(dir, metrics.epochs())?;
        if is_best {
            checkpoint::save(&dir.best_checkpoint(), &self.model, &self.sgd, &self.progress)?;
        }
        self.save(dir)
    }
}

/// Whether a checkpoint holds the network that the configuration names; an edited configuration may name another one.
fn same_network(config: &Config, of: &Description) -> Result<(), String> {
    let names = |set: &str, backbone: Backbone, width: f64, conv: &ConvKind| {
        format!("{set}, {}, width {width}, {}", backbone.name(), serde_json::json!(conv))
    };
    let wanted = names(&config.dataset, config.backbone, config.width, &config.conv);
    let found = names(&of.dataset, of.backbone, of.width, &of.conv);
    if wanted == found {
        Ok(())
    } else {
        Err(format!("it holds {found}, but the configuration of the run names {wanted}"))
    }
}

/// Takes initial values from plain weights; strict on names and shapes.
fn initialise<T: Real>(model: &mut Model<T>, path: &Path) -> Result<()> {
    let contents = file::read(path)?;
    let values = contents.tensors.iter().filter(|(key, _)| !key.starts_with("optimizer."));
    let state = values.map(|(key, value)| (key.clone(), value.to())).collect();
    model.network.load(&state).map_err(|e| {
        let message = format!("its tensors do not fit the network: {e}");
        file::FileError::Format { path: path.to_owned(), message }
    })?;
    Ok(())
}
