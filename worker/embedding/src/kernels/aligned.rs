//! Memory aligned to cache lines, so that vector loads of panels never cross one.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vector register.
const LINE: usize = 64;

/// A buffer that starts on a cache line.
#[derive(Default)]
pub(super) struct Aligned {
    /// The values, with padding in front.
    values: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// A buffer of `length` zeros.
    pub(super) fn zeros(length: usize) -> Self {
        let padding = LINE / size_of::<f32>();
        let mut values = vec![0.0; length + padding];
        let start = values.as_ptr().align_offset(LINE).min(padding);
        values.truncate(start + length);
        Self { values, start }
    }

    /// The first `length` values, with unspecified content. Reallocates if the buffer is shorter.
    pub(super) fn first(&mut self, length: usize) -> &mut [f32] {
        if self.len() < length {
            *self = Self::zeros(length);
        }
        &mut self[..length]
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.start..]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line() {
        for length in [0, 1, 17, 100_000] {
            let values = Aligned::zeros(length);
            assert_eq!(values.len(), length);
            assert_eq!(values.as_ptr().addr() % LINE, 0);
        }
        let mut values = Aligned::default();
        values.first(3)[2] = 7.0;
        assert_eq!(*values.first(3), [0.0, 0.0, 7.0]);
        assert_eq!(*values.first(5), [0.0; 5]);
    }
}
