//! What can go wrong in a kernel or a layer, with the numbers that say why.

/// The result of every fallible operation on tensors.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation was asked for something it cannot do.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument has the wrong shape.
    #[error("{op}: `{arg}` has shape {got:?}, expected {expected}")]
    Shape {
        /// The operation, for example `conv2d`.
        op: &'static str,
        /// The argument, by its name in the equations.
        arg: &'static str,
        /// The shape expected, in letters or numbers.
        expected: String,
        /// The shape that came.
        got: Vec<usize>,
    },
    /// The shapes agree, but the operation has no meaning for them or for an option.
    #[error("{op}: {message}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// What is wrong, with the numbers.
        message: String,
    },
    /// An error inside a layer, with the layer's name.
    #[error("in layer `{path}`: {source}")]
    Layer {
        /// The layer's path, as in the names of its parameters.
        path: String,
        /// What went wrong there.
        source: Box<Error>,
    },
}

impl Error {
    /// An argument of the wrong shape.
    pub fn shape(op: &'static str, arg: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { op, arg, expected: expected.into(), got: got.to_vec() }
    }

    /// An operation without meaning for its arguments.
    pub fn invalid(op: &'static str, message: impl Into<String>) -> Self {
        Error::Invalid { op, message: message.into() }
    }

    /// The same error, seen from inside the layer `path`. A path that is set already stays: the innermost layer knows best.
    #[must_use]
    pub fn in_layer(self, path: &str) -> Self {
        match self {
            Error::Layer { .. } => self,
            source => Error::Layer { path: path.to_owned(), source: Box::new(source) },
        }
    }
}
