//! What the fuzz targets do with bytes from outside: one file for each crate that reads them, each function a law that
//! holds for any bytes. Each is also called with the corpus, and with what is near it, by a test of its crate.
#![forbid(unsafe_code)]

pub mod frame;
pub mod history;
pub mod policy;
pub mod wire;
