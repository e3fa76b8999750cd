//! One value ahead: a background thread makes the next value while the current one is used.

use std::any::Any;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

/// The values `make(0)`, `make(1)`, … of a background thread, in order. At most one finished value waits while the next
/// one is made. Dropping it early ends the thread.
pub(crate) struct Prefetch<V> {
    values: Option<Receiver<V>>,
    thread: Option<JoinHandle<()>>,
}

impl<V: Send + 'static> Prefetch<V> {
    /// Starts making values, until `make` returns `None`.
    pub(crate) fn start(mut make: impl FnMut(usize) -> Option<V> + Send + 'static) -> std::io::Result<Self> {
        let (sender, values) = sync_channel(1);
        let work = move || {
            // The receiver is gone: nobody wants the rest.
            (0..).map_while(&mut make).all(|value| sender.send(value).is_ok());
        };
        let thread = thread::Builder::new().name("loader".into()).spawn(work)?;
        Ok(Prefetch { values: Some(values), thread: Some(thread) })
    }

    /// The next value; `Ok(None)` after the last one.
    ///
    /// # Errors
    /// The message of a panic that ended the thread, once.
    pub(crate) fn next(&mut self) -> Result<Option<V>, String> {
        match self.values.as_ref().and_then(|values| values.recv().ok()) {
            Some(value) => Ok(Some(value)),
            None => self.end().map(|()| None).map_err(|panic| message(&*panic)),
        }
    }

    fn end(&mut self) -> thread::Result<()> {
        self.values = None; // a thread that waits to hand over a value stops waiting
        self.thread.take().map_or(Ok(()), JoinHandle::join)
    }
}

impl<V> Drop for Prefetch<V> {
    fn drop(&mut self) {
        self.values = None;
        if let Some(thread) = self.thread.take() {
            // A panic in values that nobody asked for concerns nobody.
            let _ = thread.join();
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_values_come_in_order_and_then_none() {
        let mut values = Prefetch::start(|i| (i < 5).then_some(i * i)).unwrap();
        let all: Vec<usize> = std::iter::from_fn(|| values.next().unwrap()).collect();
        assert_eq!(all, [0, 1, 4, 9, 16]);
        assert_eq!(values.next(), Ok(None));
    }

    #[test]
    fn dropping_it_early_ends_the_thread() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let mut values = Prefetch::start(move |i| {
            count.fetch_add(1, Ordering::SeqCst);
            Some(i)
        })
        .unwrap();
        assert_eq!(values.next(), Ok(Some(0)));
        drop(values); // returns: the thread was joined, though it had values without end
        let at_end = made.load(Ordering::SeqCst);
        assert!((1..=4).contains(&at_end), "{at_end} values made for one that was used");
        assert_eq!(Arc::strong_count(&made), 1, "the thread still holds its counter");
    }

    #[test]
    fn a_panic_is_an_error_where_its_value_was_awaited() {
        let mut values = Prefetch::start(|i| if i < 2 { Some(i) } else { panic!("value {i} is cursed") }).unwrap();
        assert_eq!((values.next(), values.next()), (Ok(Some(0)), Ok(Some(1))));
        assert_eq!(values.next(), Err("value 2 is cursed".into()));
        assert_eq!(values.next(), Ok(None));
    }
}
