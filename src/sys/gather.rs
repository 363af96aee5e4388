//! An iterator's items as a `Vec`, in few instructions.

/// `collect` for a `Vec`, by pushing one item after the other. The standard library's has, for each chain of
/// adapters, code that reserves, unrolls, and reuses the source's memory: many kB of the binary for lists
/// that are short.
pub trait Gather: Iterator + Sized {
    fn gather(self) -> Vec<Self::Item> {
        let mut all = Vec::new();
        for item in self {
            all.push(item);
        }
        all
    }
}

impl<I: Iterator> Gather for I {}
