//! Modules: a forward pass, and a walk over what they own. The walk is all bookkeeping there is: names, state dicts,
//! counting, loading and the optimiser are loops over it.

use std::collections::BTreeMap;
use std::fmt;

use gatefold_autograd::Var;
use gatefold_tensor::{Real, Result, Tensor};

use crate::{Buffer, Cx, Param};

/// Something a module owns.
pub enum Entry<'a, T: Real> {
    /// A parameter.
    Param(&'a Param<T>),
    /// A buffer.
    Buffer(&'a Buffer<T>),
}

impl<'a, T: Real> Entry<'a, T> {
    /// The current value, of either.
    pub fn value(&self) -> &'a Tensor<T> {
        match self {
            Entry::Param(param) => &param.value,
            Entry::Buffer(buffer) => &buffer.value,
        }
    }
}

/// Something a module owns, for writing.
pub enum EntryMut<'a, T: Real> {
    /// A parameter.
    Param(&'a mut Param<T>),
    /// A buffer.
    Buffer(&'a mut Buffer<T>),
}

impl<T: Real> EntryMut<'_, T> {
    /// The current value, of either.
    pub fn value(&mut self) -> &mut Tensor<T> {
        match self {
            EntryMut::Param(param) => &mut param.value,
            EntryMut::Buffer(buffer) => &mut buffer.value,
        }
    }
}

/// `prefix.name`, or `name` at the root.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// A walk over everything owned, in the order of the fields, each with its state-dict key. [`walk_fields!`](crate::walk_fields)
/// writes it.
pub trait Walk<T: Real> {
    /// Visits every entry below `prefix`.
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>));

    /// Visits every entry below `prefix`, for writing.
    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>));

    /// The state dict: every value by its key.
    fn state(&self) -> BTreeMap<String, Tensor<T>> {
        let mut state = BTreeMap::new();
        self.walk("", &mut |key, entry| {
            state.insert(key.to_owned(), entry.value().clone());
        });
        state
    }

    /// The number of trained values.
    fn parameters(&self) -> usize {
        let mut count = 0;
        self.walk("", &mut |_, entry| {
            if let Entry::Param(param) = entry {
                count += param.value.len();
            }
        });
        count
    }

    /// Takes every value from a state dict. Strict: a missing, an unexpected and a mis-shaped key are all reported at
    /// once, and then nothing is changed. PyTorch's `num_batches_tracked` is accepted and ignored.
    ///
    /// # Errors
    /// [`LoadError`] with all keys at fault.
    fn load(&mut self, state: &BTreeMap<String, Tensor<T>>) -> Result<(), LoadError> {
        let mut error = LoadError::default();
        let mut expected = BTreeMap::new();
        self.walk("", &mut |key, entry| {
            expected.insert(key.to_owned(), *entry.value().shape());
        });
        for (key, shape) in &expected {
            match state.get(key) {
                None => error.missing.push(key.clone()),
                Some(value) if value.shape() != shape => {
                    error.misshaped.push(format!("{key} is {:?}, expected {shape:?}", value.shape()));
                }
                Some(_) => {}
            }
        }
        let known = |key: &String| expected.contains_key(key) || key.ends_with("num_batches_tracked");
        error.unexpected.extend(state.keys().filter(|key| !known(key)).cloned());
        if error != LoadError::default() {
            return Err(error);
        }
        self.walk_mut("", &mut |key, mut entry| *entry.value() = state[key].clone());
        Ok(())
    }
}

/// Why a state dict does not fit a module.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoadError {
    /// Keys the module has and the state dict lacks.
    pub missing: Vec<String>,
    /// Keys the state dict has and the module does not know.
    pub unexpected: Vec<String>,
    /// Keys of both whose shapes differ, with both shapes.
    pub misshaped: Vec<String>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("missing", &self.missing), ("unexpected", &self.unexpected), ("wrong shape", &self.misshaped)];
        let mut parts = parts.iter().filter(|(_, keys)| !keys.is_empty()).peekable();
        while let Some((what, keys)) = parts.next() {
            write!(f, "{what}: {}", keys.join(", "))?;
            if parts.peek().is_some() {
                f.write_str("; ")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// A module with one input and one output.
pub trait Module<T: Real>: Walk<T> {
    /// The output. Takes `&self`: new running statistics go into `cx` and are applied after the step.
    ///
    /// # Errors
    /// As the operations inside, with the layer's path.
    fn forward(&self, cx: &Cx<T>, x: &Var<T>) -> Result<Var<T>>;
}

impl<T: Real> Walk<T> for Param<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        visit(prefix, Entry::Param(self));
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        visit(prefix, EntryMut::Param(self));
    }
}

impl<T: Real> Walk<T> for Buffer<T> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        visit(prefix, Entry::Buffer(self));
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        visit(prefix, EntryMut::Buffer(self));
    }
}

impl<T: Real, M: Walk<T>> Walk<T> for Option<M> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        if let Some(module) = self {
            module.walk(prefix, visit);
        }
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        if let Some(module) = self {
            module.walk_mut(prefix, visit);
        }
    }
}

impl<T: Real, M: Walk<T>> Walk<T> for Vec<M> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        for (i, module) in self.iter().enumerate() {
            module.walk(&join(prefix, &i.to_string()), visit);
        }
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        for (i, module) in self.iter_mut().enumerate() {
            module.walk_mut(&join(prefix, &i.to_string()), visit);
        }
    }
}

impl<T: Real, M: Walk<T> + ?Sized> Walk<T> for Box<M> {
    fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, Entry<'a, T>)) {
        (**self).walk(prefix, visit);
    }

    fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, EntryMut<'a, T>)) {
        (**self).walk_mut(prefix, visit);
    }
}

/// Implements [`Walk`] for a struct: the names of the given fields become the keys.
///
/// `walk_fields!(impl<T> Linear<T> { weight, bias })`; more type parameters come with their bounds,
/// `walk_fields!(impl<T, S: Walk<T>> Block<S> { pointwise, depthwise })`.
#[macro_export]
macro_rules! walk_fields {
    (impl<$t:ident $(, $p:ident : $bound:path)*> $module:ty { $($field:ident),+ $(,)? }) => {
        impl<$t: gatefold_tensor::Real $(, $p: $bound)*> $crate::Walk<$t> for $module {
            fn walk<'a>(&'a self, prefix: &str, visit: &mut dyn FnMut(&str, $crate::Entry<'a, $t>)) {
                $($crate::Walk::walk(&self.$field, &$crate::join(prefix, stringify!($field)), visit);)+
            }

            fn walk_mut<'a>(&'a mut self, prefix: &str, visit: &mut dyn FnMut(&str, $crate::EntryMut<'a, $t>)) {
                $($crate::Walk::walk_mut(&mut self.$field, &$crate::join(prefix, stringify!($field)), visit);)+
            }
        }
    };
}
