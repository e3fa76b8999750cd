//! The training loop.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use gatefold_data::{Augment, Batch, Dataset, Loader, Mixup, Options};
use gatefold_layers::{ConvKind, Cx, Mode, Walk};
use gatefold_models::{Backbone, Description, Model, Normalisation, file};
use gatefold_tensor::Real;

use crate::average::Average;
use crate::checkpoint::{self, Checkpoint, Progress};
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
    average: Option<Average<T>>,
    progress: Progress,
    train: Arc<Dataset>,
    test: Arc<Dataset>,
    last_accuracy: Option<f64>,
    averaged_accuracy: Option<f64>,
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
        let Checkpoint { model, momenta, average, progress } = checkpoint::load(path)?;
        let averaged = match config.ema > 0.0 && average.is_empty() {
            true => Err("it has no average of the weights, but the configuration of the run wants one".to_owned()),
            false => Ok(()),
        };
        same_network(&config, &model.description).and(averaged).map_err(|problem| Error::Checkpoint {
            path: path.to_owned(),
            problem,
            remedy: Some(
                "put the options back into `config.toml`, or begin anew with \
                 `gatefold train --config FILE --out DIR`"
                    .to_owned(),
            ),
        })?;
        let mut trainer = Self::assemble(config, model, progress, loaded);
        if let Some(begun) = &mut trainer.average {
            *begun = Average::resume(trainer.config.ema, average);
            // Whatever does not fit the network is found now, not at the end of an epoch.
            begun.model(&trainer.model)?;
        }
        trainer.sgd.load_velocity(momenta, &*trainer.model.network)?;
        Ok(trainer)
    }

    fn assemble(config: Config, model: Model<T>, progress: Progress, loaded: gatefold_data::Loaded) -> Self {
        let mut sgd = Sgd::new(config.momentum, config.weight_decay);
        sgd.scope = config.weight_decay_scope;
        let average = (config.ema > 0.0).then(|| Average::new(config.ema, &*model.network));
        let gatefold_data::Split { train, test } = loaded.split;
        let (train, test) = (Arc::new(train), Arc::new(test));
        Trainer { config, model, sgd, average, progress, train, test, last_accuracy: None, averaged_accuracy: None }
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

    /// The averaged weights as a model, if weights are averaged.
    ///
    /// # Errors
    /// None but for want of memory.
    pub fn averaged(&self) -> Result<Option<Model<T>>> {
        self.average.as_ref().map(|average| average.model(&self.model)).transpose()
    }

    /// The test accuracy of the averaged weights after the last epoch evaluated, in percent.
    pub fn averaged_accuracy(&self) -> Option<f64> {
        self.averaged_accuracy
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
        self.averaged_accuracy = metrics.epochs().last().and_then(|epoch| epoch.ema_accuracy);
        if self.progress == Progress::default() {
            // Before the first step, so that a run that is killed early can be resumed too.
            self.save(dir)?;
        }
        let over = |run: &Self| run.progress.epoch >= run.config.epochs || run.steps_done();
        if over(self) {
            // Taken up again after its end, perhaps within an epoch that `metrics` no longer knows.
            let (test, averaged) = self.evaluate()?;
            self.last_accuracy = Some(test.accuracy());
            self.averaged_accuracy = averaged.as_ref().map(Evaluation::accuracy);
        }
        while !over(self) {
            let started = Instant::now();
            let images_before = self.progress.seen;
            if self.train_epoch(watch)? == Outcome::Interrupted {
                self.save(dir)?;
                return Ok(Outcome::Interrupted);
            }
            let seconds = started.elapsed().as_secs_f64();
            let epoch = self.summarise(seconds, self.progress.seen - images_before)?;
            self.last_accuracy = Some(epoch.test_accuracy);
            self.averaged_accuracy = epoch.ema_accuracy;
            self.finish_epoch(dir, &mut metrics, &epoch)?;
            watch.epoch(&epoch);
        }
        Ok(Outcome::Finished)
    }

    fn steps_done(&self) -> bool {
        self.config.steps.is_some_and(|steps| self.progress.step >= steps)
    }

    fn save(&self, dir: &RunDir) -> Result<()> {
        self.save_as(&dir.last_checkpoint())
    }

    fn save_as(&self, path: &Path) -> Result<()> {
        Ok(checkpoint::save(path, &self.model, &self.sgd, self.average.as_ref(), &self.progress)?)
    }

    /// The rest of the epoch under way.
    fn train_epoch(&mut self, watch: &mut dyn Watch) -> Result<Outcome> {
        let Config { batch_size, seed, shuffle, augment, pad, flip, epochs, mixup, .. } = self.config;
        let augment = augment.then_some(Augment { pad, flip });
        let mixup = (mixup > 0.0).then_some(Mixup { alpha: mixup });
        let options = Options { batch_size, seed, shuffle, augment, mixup };
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
            let (loss, correct) = self.step(&batch, lr)?;
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
    fn step(&mut self, batch: &Batch<T>, lr: f64) -> Result<(f64, usize)> {
        let plain = step::Step::new(&self.config, &batch.images, &batch.labels, lr);
        let step = step::Step { mixed: batch.mixed.as_ref(), ..plain };
        match step::step(&mut *self.model.network, &mut self.sgd, &step, |_| {})? {
            Taken::Step { loss, correct } => {
                if let Some(average) = &mut self.average {
                    average.update(&*self.model.network)?;
                }
                Ok((loss, correct))
            }
            Taken::LossNotFinite => Err(self.diverged(&step)?),
            Taken::ValueNotFinite(value) => Err(self.diverged_at(value)),
        }
    }

    /// Runs the forward pass again and names the first layer that puts out a NaN or an infinity.
    fn diverged(&self, step: &step::Step<'_, T>) -> Result<Error> {
        let mut first = None;
        let cx = Cx::new(Mode::Train, false).observed(|path, _, y| {
            if first.is_none() && !y.value().is_finite() {
                first = Some(path.to_owned());
            }
        });
        // Whether this pass ends well does not matter: what it has seen so far is the answer.
        for part in step.parts()? {
            let _ = self.model.network.forward(&cx, &cx.input(part.images, false));
        }
        drop(cx);
        Ok(self.diverged_at(first.map_or(NotFinite::Loss, NotFinite::Output)))
    }

    fn diverged_at(&self, what: NotFinite) -> Error {
        Error::Diverged { epoch: self.progress.epoch, step: self.progress.step as u64, what }
    }

    /// The weights over the test images, and their average if there is one.
    fn evaluate(&self) -> Result<(Evaluation, Option<Evaluation>)> {
        let of = |model: &Model<T>| evaluate(model, &self.test, |_| {});
        Ok((of(&self.model)?, self.averaged()?.as_ref().map(of).transpose()?))
    }

    fn summarise(&self, seconds: f64, images: usize) -> Result<Epoch> {
        let Progress { epoch, loss_sum, correct, seen, .. } = self.progress;
        let (test, averaged) = self.evaluate()?;
        Ok(Epoch {
            epoch,
            lr: self.config.lr_at(epoch),
            train_loss: loss_sum / seen.max(1) as f64,
            train_accuracy: 100.0 * correct as f64 / seen.max(1) as f64,
            test_loss: test.loss,
            test_accuracy: test.accuracy(),
            ema_loss: averaged.as_ref().map(|averaged| averaged.loss),
            ema_accuracy: averaged.as_ref().map(Evaluation::accuracy),
            images_per_second: images as f64 / seconds,
            seconds,
        })
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
            self.save_as(&dir.best_checkpoint())?;
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
