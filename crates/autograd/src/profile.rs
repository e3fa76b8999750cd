//! Where a step spends its time, by op. Ops run one after another on the thread that owns the tape, so the time since the
//! last event belongs to the op that just ended.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use gatefold_tensor::Real;

/// One op in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The op's name on the tape.
    pub op: &'static str,
    /// Whether this is its backward pass.
    pub backward: bool,
    /// The shape of its output.
    pub shape: Vec<usize>,
    /// Bytes of its output.
    pub bytes: usize,
    /// How long it took.
    pub time: Duration,
}

struct Recording {
    last: Instant,
    events: Vec<Event>,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Runs `f` and returns what the ops in it took, in their order. Only ops on this thread's tapes are seen.
pub fn profile<R>(f: impl FnOnce() -> R) -> (R, Vec<Event>) {
    let outer = RECORDING.replace(Some(Recording { last: Instant::now(), events: Vec::new() }));
    let result = f();
    let recording = RECORDING.replace(outer);
    (result, recording.map(|recording| recording.events).unwrap_or_default())
}

/// Time that belongs to no op ends here.
pub(crate) fn skip() {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            recording.last = Instant::now();
        }
    });
}

/// An op has ended.
pub(crate) fn lap<T: Real>(op: &'static str, backward: bool, y: &[usize]) {
    RECORDING.with_borrow_mut(|recording| {
        if let Some(recording) = recording {
            let now = Instant::now();
            let bytes = y.iter().product::<usize>() * size_of::<T>();
            let time = now - recording.last;
            recording.events.push(Event { op, backward, shape: y.to_vec(), bytes, time });
            recording.last = now;
        }
    });
}
