//! The chain runner.
