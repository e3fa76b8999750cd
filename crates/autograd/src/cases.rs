//! Named cases for gradient checks.
