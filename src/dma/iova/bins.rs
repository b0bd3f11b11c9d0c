//! Bins of free blocks by size, with bitmaps of the bins in use.
//!
//! Each power of two has 16 bins of equal width; below 32 pages each bin is one size. Two levels of
//! bitmaps find the next bin with a block in a few instructions, however many there are.

/// No slot.
pub(super) const NONE: u32 = u32::MAX;
/// Bins per power of two, as a power of two.
const SPLIT: u32 = 4;

/// Returns the bin of a block of that many pages, at least one. Larger blocks are never in a lower
/// bin.
pub(super) fn bin_of(pages: u64) -> usize {
    let shift = pages.ilog2().saturating_sub(SPLIT);
    // From 2^4 on the first term counts the powers of two, and the second runs from 16 to 31 within
    // one.
    ((shift as usize) << SPLIT) + (pages >> shift) as usize
}

/// Returns the lowest bin in which every block has at least that many pages.
pub(super) fn bin_for(pages: u64) -> usize {
    if pages <= 1 { bin_of(1) } else { bin_of(pages - 1) + 1 }
}

/// The first block of each list, and bitmaps of the lists that have one.
#[derive(Debug)]
pub(super) struct Bins {
    first: Vec<u32>,
    /// Bit n of word w: bin 64 w + n has a block.
    words: Vec<u64>,
    /// Bit w: word w is not 0. Blocks of 2^52 pages still have fewer than 64 words.
    summary: u64,
}

impl Bins {
    /// Creates empty lists for blocks of up to that many pages.
    pub(super) fn new(most: u64) -> Self {
        let count = bin_of(most.max(1)) + 1;
        Self { first: vec![NONE; count], words: vec![0; count.div_ceil(64)], summary: 0 }
    }

    /// Returns the first block of a bin, or [`NONE`].
    pub(super) fn first(&self, bin: usize) -> u32 {
        self.first.get(bin).copied().unwrap_or(NONE)
    }

    /// Makes `slot` the first block of a bin; [`NONE`] empties it.
    pub(super) fn set_first(&mut self, bin: usize, slot: u32) {
        self.first[bin] = slot;
        let (word, bit) = (bin / 64, 1 << (bin % 64));
        if slot == NONE {
            self.words[word] &= !bit;
        } else {
            self.words[word] |= bit;
        }
        let has_any = u64::from(self.words[word] != 0);
        self.summary = self.summary & !(1 << word) | has_any << word;
    }

    /// Returns the lowest bin from `bin` on that has a block.
    pub(super) fn next(&self, bin: usize) -> Option<usize> {
        let word = bin / 64;
        let here = self.words.get(word)? & (u64::MAX << (bin % 64));
        if here != 0 {
            return Some(word * 64 + here.trailing_zeros() as usize);
        }
        // Two shifts, since a single shift by 64 would do nothing.
        let above = self.summary & (u64::MAX << word << 1);
        let word = (above != 0).then(|| above.trailing_zeros() as usize)?;
        Some(word * 64 + self.words[word].trailing_zeros() as usize)
    }

    /// Returns the highest bin that has a block.
    pub(super) fn last(&self) -> Option<usize> {
        let word = self.summary.checked_ilog2()? as usize;
        Some(word * 64 + self.words[word].ilog2() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_follow_each_other_without_gaps() {
        let mut last = bin_of(1);
        for pages in 2..1 << 10 {
            let bin = bin_of(pages);
            assert!(bin == last || bin == last + 1, "{pages} pages");
            assert!(pages >= 32 || bin == pages as usize);
            last = bin;
        }
        assert_eq!(bin_of(1 << 52), (52 - 4) * 16 + 16);
    }

    #[test]
    fn every_block_of_the_bin_for_a_size_holds_it() {
        for pages in 1..70 {
            let bin = bin_for(pages);
            let smallest = (1..).find(|&size| bin_of(size) == bin).unwrap();
            assert!(smallest >= pages, "{pages} pages");
            assert!(pages == 1 || bin_of(pages - 1) < bin, "{pages} pages: a lower bin would do");
        }
    }

    #[test]
    fn the_next_bin_is_found_over_words() {
        let mut bins = Bins::new(1 << 52);
        assert_eq!((bins.next(0), bins.last()), (None, None));
        for bin in [3, 63, 64, 700, 784] {
            bins.set_first(bin, 1);
        }
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(bin) = bins.next(at) {
            found.push(bin);
            at = bin + 1;
        }
        assert_eq!(found, [3, 63, 64, 700, 784]);
        bins.set_first(784, NONE);
        assert_eq!((bins.next(701), bins.last(), bins.first(784)), (None, Some(700), NONE));
        assert_eq!(bins.next(usize::MAX), None);
    }
}
