//! Progress on stderr: a bar with images/s and the time left on a terminal, plain lines otherwise. And the interrupt.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use gatefold_train::{Epoch, Step, Watch};
use indicatif::{ProgressBar, ProgressStyle};

/// Shows a run and listens for Ctrl-C.
pub struct Progress {
    interrupted: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    started: Instant,
    images: usize,
}

impl Progress {
    /// Listens from now on: the first Ctrl-C asks for a checkpoint, the second ends the program.
    pub fn new() -> anyhow::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        })?;
        let bar = stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg}  {bar:30}  {pos}/{len}  {elapsed_precise} < {eta_precise}");
            ProgressBar::new(0).with_style(style.expect("the template is valid"))
        });
        Ok(Progress { interrupted, bar, started: Instant::now(), images: 0 })
    }
}

impl Watch for Progress {
    fn step(&mut self, step: &Step) {
        self.images += step.images;
        if let Some(bar) = &self.bar {
            let rate = self.images as f64 / self.started.elapsed().as_secs_f64();
            bar.set_length((step.epochs * step.batches) as u64);
            bar.set_position((step.epoch * step.batches + step.batch) as u64);
            bar.set_message(format!("epoch {:3}  loss {:.4}  {rate:.0} images/s", step.epoch, step.loss));
        }
    }

    fn epoch(&mut self, epoch: &Epoch) {
        let averaged = epoch.ema_accuracy.map_or_else(String::new, |accuracy| format!(" (averaged {accuracy:.2} %)"));
        let line = format!(
            "epoch {:3}  lr {:.5}  train loss {:.4} accuracy {:.2} %  test loss {:.4} accuracy {:.2} %{averaged}  {:.0} images/s",
            epoch.epoch,
            epoch.lr,
            epoch.train_loss,
            epoch.train_accuracy,
            epoch.test_loss,
            epoch.test_accuracy,
            epoch.images_per_second
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    fn stop(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}
