//! Addresses, ranges and page sizes.
//!
//! A user address, a bus address and a guest's address never mix: each has its own type. Ranges are
//! never empty and never wrap, so every function that takes one can rely on it. Arithmetic is
//! checked.

use core::fmt;

/// A kind of address: [`UserAddr`], [`Iova`] or [`GuestAddr`].
pub trait Address: Copy + Ord + fmt::Debug + fmt::LowerHex {
    /// The word for this kind of address in messages.
    const NAME: &'static str;
    /// Returns the address as a number.
    fn get(self) -> u64;
    /// Creates the address from a number.
    fn new(value: u64) -> Self;
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl Address for $name {
            const NAME: &'static str = $word;
            fn get(self) -> u64 {
                self.0
            }
            fn new(value: u64) -> Self {
                Self(value)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// An address in the user process.
    UserAddr,
    "user"
);
address!(
    /// A bus address: what the device puts on the bus and a TCE translates.
    Iova,
    "IOVA"
);
address!(
    /// A guest's real address: how its TCEs, hypercalls and RTAS calls name memory.
    GuestAddr,
    "guest"
);

/// A logical I/O bus number (LIOBN): the number with which a guest names a TCE table, and so a DMA
/// window, in hypercalls (LoPAR).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Liobn(pub u32);

impl fmt::Display for Liobn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LIOBN {:#x}", self.0)
    }
}

/// A non-empty range of addresses that does not wrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range<A> {
    start: A,
    len: u64,
}

/// A range of user addresses.
pub type UserRange = Range<UserAddr>;
/// A range of bus addresses.
pub type IovaRange = Range<Iova>;
/// A range of a guest's real addresses.
pub type GuestRange = Range<GuestAddr>;

/// Why a start and a length do not make a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum RangeError {
    /// The length is 0.
    #[error("range at {start:#x} has length 0: give it at least one page")]
    Empty { start: u64 },
    /// The end would be at or past 2^64.
    #[error("range at {start:#x} with length {len:#x} runs past the end of the address space")]
    Wraps { start: u64, len: u64 },
}

crate::error::classify!(RangeError { Argument: Empty, Wraps; });

impl<A: Address> Range<A> {
    /// Creates the range of `len` bytes at `start`. Fails if it is empty or ends at 2^64 or beyond;
    /// the kernel takes neither.
    pub fn new(start: A, len: u64) -> Result<Self, RangeError> {
        if len == 0 {
            return Err(RangeError::Empty { start: start.get() });
        }
        match start.get().checked_add(len) {
            Some(_) => Ok(Self { start, len }),
            None => Err(RangeError::Wraps { start: start.get(), len }),
        }
    }

    /// Creates the range from `start` up to but not including `end`; `None` if it is empty.
    pub fn between(start: A, end: A) -> Option<Self> {
        let len = end.get().checked_sub(start.get())?;
        (len != 0).then_some(Self { start, len })
    }

    /// Creates the range over these numbers; `None` if it is empty.
    pub fn from_raw(raw: &core::ops::Range<u64>) -> Option<Self> {
        Self::between(A::new(raw.start), A::new(raw.end))
    }

    /// Returns the numbers from the first address up to the end.
    pub fn raw(&self) -> core::ops::Range<u64> {
        self.start.get()..self.end().get()
    }

    /// Returns the first address.
    pub fn start(&self) -> A {
        self.start
    }

    /// Returns the first address after the range.
    pub fn end(&self) -> A {
        A::new(self.start.get() + self.len)
    }

    /// Returns the length in bytes, never 0.
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether `other` lies wholly in this range.
    pub fn contains_range(&self, other: &Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }

    /// Returns whether `address` lies in this range.
    pub fn contains(&self, address: A) -> bool {
        self.start <= address && address < self.end()
    }

    /// Returns whether both ranges share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Returns the part that both ranges share.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end().min(other.end()))
    }

    /// Returns the smallest range that holds both.
    pub fn hull(&self, other: &Self) -> Self {
        let start = self.start.min(other.start);
        Self { start, len: self.end().max(other.end()).get() - start.get() }
    }

    /// Returns the first `len` bytes; `None` if that is nothing or more than the range has.
    pub fn prefix(&self, len: u64) -> Option<Self> {
        self.subrange(0, len)
    }

    /// Returns `len` bytes at `offset` from the start; `None` if that is nothing or reaches past
    /// the end.
    pub fn subrange(&self, offset: u64, len: u64) -> Option<Self> {
        let end = offset.checked_add(len)?;
        (len != 0 && end <= self.len).then(|| Self { start: A::new(self.start.get() + offset), len })
    }

    /// Splits the range after `len` bytes, at least one and at most all of them. There is no second
    /// part if nothing is left.
    pub fn split(&self, len: u64) -> (Self, Option<Self>) {
        let first = Self { start: self.start, len: len.clamp(1, self.len) };
        (first, Self::between(first.end(), self.end()))
    }

    /// Returns whether start and length are multiples of the page.
    pub fn is_aligned(&self, page: PageShift) -> bool {
        (self.start.get() | self.len) & page.mask() == 0
    }

    /// Cuts the range into pieces of at most `most` bytes.
    pub fn chunks(self, most: u64) -> impl Iterator<Item = Self> {
        let most = most.max(1);
        let mut at = self.start.get();
        let end = self.end().get();
        core::iter::from_fn(move || {
            let len = most.min(end.checked_sub(at)?);
            let piece = (len != 0).then(|| Self { start: A::new(at), len });
            at += len;
            piece
        })
    }
}

impl<A: Address> fmt::Display for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x}-{:#x} ({})", A::NAME, self.start, self.end(), Bytes(self.len))
    }
}

impl<A: Address> fmt::Debug for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end())
    }
}

/// A page size as a power of two: 12 is 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageShift(u8);

impl PageShift {
    /// 4 KiB.
    pub const P4K: Self = Self(12);
    /// 64 KiB.
    pub const P64K: Self = Self(16);
    /// 2 MiB.
    pub const P2M: Self = Self(21);
    /// 16 MiB.
    pub const P16M: Self = Self(24);
    /// 256 MiB.
    pub const P256M: Self = Self(28);
    /// 1 GiB.
    pub const P1G: Self = Self(30);

    /// Creates a page size of `2^shift` bytes; `None` outside 12 to 34, the pages POWER's IOMMUs
    /// know.
    pub const fn new(shift: u32) -> Option<Self> {
        if shift >= 12 && shift <= 34 { Some(Self(shift as u8)) } else { None }
    }

    /// Returns the page of exactly that many bytes.
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() { Self::new(bytes.trailing_zeros()) } else { None }
    }

    /// Returns the largest page that `value` is a multiple of; `None` below 4 KiB.
    pub const fn aligning(value: u64) -> Option<Self> {
        let shift = value.trailing_zeros();
        Self::new(if shift < 34 { shift } else { 34 })
    }

    /// Returns the power of two.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Returns the number of bytes in a page.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// Returns the mask of the offset bits within a page.
    pub const fn mask(self) -> u64 {
        self.bytes() - 1
    }

    /// Rounds down to a multiple of the page.
    pub const fn floor(self, value: u64) -> u64 {
        value & !self.mask()
    }

    /// Rounds up to a multiple of the page; `None` past 2^64.
    pub const fn ceil(self, value: u64) -> Option<u64> {
        match value.checked_add(self.mask()) {
            Some(sum) => Some(self.floor(sum)),
            None => None,
        }
    }
}

impl fmt::Display for PageShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bytes(self.bytes()).fmt(f)
    }
}

/// A number of bytes, displayed exactly and briefly: `64K`, `2G`, `0x1001`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 6] = [(60, "E"), (50, "P"), (40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let text = match UNITS.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => format!("{}{unit}", self.0 >> shift),
            None if self.0 < 1024 => format!("{}", self.0),
            None => format!("{:#x}", self.0),
        };
        f.pad(&text)
    }
}

/// An amount of memory in a sentence, shown exactly: `64 KiB`, `2 GiB`, `4097 bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 6] = [(60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match UNITS.iter().find(|(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((shift, unit)) => write!(f, "{} {unit}", self.0 >> shift),
            None if self.0 == 1 => f.write_str("1 byte"),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Displays items with commas between them; nothing for no items.
pub(crate) struct List<I>(pub(crate) I);

impl<I: IntoIterator<Item: fmt::Display> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, item) in self.0.clone().into_iter().enumerate() {
            write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> IovaRange {
        Range::new(Iova(start), len).unwrap()
    }

    #[test]
    fn a_range_is_never_empty_and_never_wraps() {
        assert_eq!(IovaRange::new(Iova(5), 0), Err(RangeError::Empty { start: 5 }));
        assert_eq!(IovaRange::new(Iova(u64::MAX), 1), Err(RangeError::Wraps { start: u64::MAX, len: 1 }));
        assert_eq!(range(u64::MAX - 1, 1).end(), Iova(u64::MAX));
        assert_eq!(Range::between(Iova(3), Iova(3)), None);
        assert_eq!(Range::between(Iova(4), Iova(3)), None);
    }

    #[test]
    fn chunks_cover_the_range_once() {
        let pieces: Vec<_> = range(10, 25).chunks(10).collect();
        assert_eq!(pieces, [range(10, 10), range(20, 10), range(30, 5)]);
    }

    #[test]
    fn a_hull_holds_both_and_nothing_outside_them() {
        let range = |start, len| Range::new(Iova(start), len).unwrap();
        assert_eq!(range(8, 4).hull(&range(2, 1)), range(2, 10));
        assert_eq!(range(2, 1).hull(&range(8, 4)), range(2, 10));
        assert_eq!(range(2, 10).hull(&range(4, 2)), range(2, 10));
        assert_eq!(range(0, 1).hull(&range(u64::MAX - 1, 1)), range(0, u64::MAX));
    }

    #[test]
    fn a_subrange_lies_within() {
        let range = Range::new(Iova(0x10), 8).unwrap();
        assert_eq!(range.subrange(2, 3), Range::new(Iova(0x12), 3).ok());
        assert_eq!(range.subrange(0, 8), Some(range));
        assert_eq!(range.prefix(8), Some(range));
        for (offset, len) in [(0, 0), (8, 0), (0, 9), (8, 1), (7, 2), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(range.subrange(offset, len), None, "{offset} {len}");
        }
    }

    #[test]
    fn a_split_loses_nothing() {
        assert_eq!(range(4, 8).split(3), (range(4, 3), Some(range(7, 5))));
        assert_eq!(range(4, 8).split(0), (range(4, 1), Some(range(5, 7))));
        assert_eq!(range(4, 8).split(8), (range(4, 8), None));
        assert_eq!(range(4, 8).split(u64::MAX), (range(4, 8), None));
    }

    #[test]
    fn the_largest_page_divides_the_value() {
        assert_eq!(PageShift::aligning(0x3000), Some(PageShift::P4K));
        assert_eq!(PageShift::aligning(0x0120_0000), Some(PageShift::P2M));
        assert_eq!(PageShift::aligning(0), PageShift::new(34));
        assert_eq!(PageShift::aligning(0x1800), None);
    }

    #[test]
    fn numbers_and_ranges_are_the_same() {
        assert_eq!(range(3, 4).raw(), 3..7);
        assert_eq!(IovaRange::from_raw(&(3..7)), Some(range(3, 4)));
        assert_eq!(IovaRange::from_raw(&(3..3)), None);
    }

    #[test]
    fn lists_have_commas_between_items() {
        assert_eq!(List::<[u64; 0]>([]).to_string(), "");
        assert_eq!(List([1]).to_string(), "1");
        assert_eq!(List([Bytes(4096), Bytes(2)].iter()).to_string(), "4K, 2");
    }

    #[test]
    fn intersection_is_what_both_share() {
        assert_eq!(range(0, 10).intersection(&range(5, 10)), Some(range(5, 5)));
        assert_eq!(range(0, 10).intersection(&range(10, 10)), None);
        for (a, b) in [(range(0, 10), range(5, 10)), (range(0, 10), range(10, 10)), (range(3, 1), range(0, 9))] {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (a.intersection(&b).is_some(), a.intersection(&b).is_some()));
        }
    }

    #[test]
    fn bytes_are_exact() {
        for (value, text) in [(0, "0"), (512, "512"), (4096, "4K"), (1 << 30, "1G"), (3 << 20, "3M"), (4097, "0x1001")]
        {
            assert_eq!(Bytes(value).to_string(), text);
        }
    }

    #[test]
    fn amounts_have_their_unit() {
        for (value, text) in
            [(0, "0 bytes"), (1, "1 byte"), (4097, "4097 bytes"), (8 << 20, "8 MiB"), (3 << 30, "3 GiB")]
        {
            assert_eq!(Amount(value).to_string(), text);
        }
        assert_eq!(Amount(u64::MAX).to_string(), "18446744073709551615 bytes");
    }

    #[test]
    fn pages_round_without_overflow() {
        assert_eq!(PageShift::P64K.ceil(1), Some(0x10000));
        assert_eq!(PageShift::P64K.ceil(u64::MAX), None);
        assert_eq!(PageShift::new(11), None);
        assert_eq!(PageShift::from_bytes(3 << 12), None);
    }
}
