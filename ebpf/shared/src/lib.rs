//! What the kernel programs and their loader agree on.
//!
//! Both sides compile this crate, so a map's name, the bytes of its key and the meaning of a number in it stand in
//! one place. Addresses and ports are in network byte order. No struct has padding: the kernel compares hash keys byte by byte, and padding is not
//! initialized. That is asserted when this crate compiles.

#![no_std]

mod address;
pub mod contact;
pub mod control;
pub mod count;
pub mod filter;
pub mod flow;
pub mod limits;
pub mod maps;
pub mod name;
pub mod network;
pub mod policy;
pub mod query;
pub mod seat;
pub mod spelling;
pub mod table;

pub use address::Address;

/// The version of everything in this crate, as it stands in the pin path.
///
/// A pinned object is reopened without any check of its types, so a change of any map, key or value changes this
/// number, and with it the folder in which an agent looks.
pub const SCHEMA: u32 = 7;

/// Asserts that the fields of a struct fill it, and promises aya what it needs to know about its bytes.
macro_rules! plain_bytes {
    ($name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        const _: () = assert!(
            size_of::<$name>() == 0 $(+ size_of::<$kind>())+,
            concat!(stringify!($name), " has padding"),
        );
        // SAFETY: the struct is `Copy` and `repr(C)`, holds only integers and arrays of them, so that every bit
        // pattern is a value, and has no padding, as asserted above.
        #[cfg(feature = "aya")]
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use plain_bytes;
