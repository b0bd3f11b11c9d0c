//! Which line a byte of a text is in.

/// Where the lines of a text end.
pub(super) struct Lines {
    /// Offsets of the line ends, in order.
    ends: Vec<usize>,
}

impl Lines {
    /// Looks through the text once: a lookup takes no more than a few comparisons after that.
    pub(super) fn new(text: &str) -> Self {
        Self { ends: memchr::memchr_iter(b'\n', text.as_bytes()).collect() }
    }

    /// Returns the line of the byte at `offset`, from 1. A line end belongs to the line it ends.
    pub(super) fn number(&self, offset: usize) -> usize {
        1 + self.ends.partition_point(|end| *end < offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_more_than_the_ends_before_it() {
        for text in ["", "\n", "one", "one\ntwo", "\n\na\nb\n", "é\nü"] {
            let lines = Lines::new(text);
            for offset in 0..=text.len() + 2 {
                let before = &text.as_bytes()[..offset.min(text.len())];
                let counted = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                assert_eq!(lines.number(offset), counted, "{text:?} at {offset}");
            }
        }
    }
}
