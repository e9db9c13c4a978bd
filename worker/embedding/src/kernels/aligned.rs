//! Memory for panels: a vector register's load from it never touches two lines of the cache.

use std::ops::{Deref, DerefMut};

/// Bytes of a line of the cache, and of the widest vector register.
const LINE: usize = 64;

/// Values that begin at the start of a line of the cache.
#[derive(Default)]
pub(super) struct Aligned {
    /// The values, with room before them.
    values: Vec<f32>,
    start: usize,
}

impl Aligned {
    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Self {
        let room = LINE / size_of::<f32>();
        let mut values = vec![0.0; length + room];
        let start = values.as_ptr().align_offset(LINE).min(room);
        values.truncate(start + length);
        Self { values, start }
    }

    /// The first `length` values, made longer with zeros where it has fewer. What they were is
    /// kept or not.
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
    fn values_begin_at_a_line() {
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
