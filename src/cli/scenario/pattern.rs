//! Patterns that distinguish memory contents.

use spapr_iommu::addr::UserRange;
use spapr_iommu::host::{Errno, Memory};

/// Bytes filled or compared at a time.
const CHUNK: u64 = 64 << 10;

/// Returns byte `at` of a pattern, counted from where it was filled in. It differs in all patterns,
/// and does not repeat soon.
fn byte(pattern: u32, at: u64) -> u8 {
    let mixed = (at ^ u64::from(pattern) << 40).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_be_bytes()[0]
}

/// Fills memory with a pattern.
pub(super) fn fill(
    memory: &dyn Memory,
    range: UserRange,
    pattern: u32,
    mut done: impl FnMut(u64),
) -> Result<(), Errno> {
    for piece in range.chunks(CHUNK) {
        let from = piece.start().0 - range.start().0;
        let data: Vec<u8> = (from..from + piece.len()).map(|at| byte(pattern, at)).collect();
        memory.write(piece.start(), &data)?;
        done(from + piece.len());
    }
    Ok(())
}

/// Finds the first wrong byte, counted from the start: it must be the pattern's, or 0.
pub(super) fn first_difference(
    memory: &dyn Memory,
    range: UserRange,
    pattern: Option<u32>,
    mut done: impl FnMut(u64),
) -> Result<Option<u64>, Errno> {
    for piece in range.chunks(CHUNK) {
        let from = piece.start().0 - range.start().0;
        let mut data = vec![0; piece.len() as usize];
        memory.read(piece.start(), &mut data)?;
        let right = |at: u64| pattern.map_or(0, |pattern| byte(pattern, at));
        let different = data.iter().zip(from..).find(|(found, at)| **found != right(*at));
        if let Some((_, at)) = different {
            return Ok(Some(at));
        }
        done(from + piece.len());
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spapr_iommu::addr::{PageShift, UserAddr};
    use spapr_iommu::model::Model;

    #[test]
    fn a_pattern_is_itself_and_no_other() {
        let model = Model::new("powernv9".parse().unwrap());
        let range = model.allocate(256 << 10, PageShift::P64K).unwrap();
        let compare = |pattern| first_difference(&model, range, pattern, |_| {}).unwrap();
        assert_eq!(compare(None), None);
        fill(&model, range, 7, |_| {}).unwrap();
        assert_eq!(compare(Some(7)), None);
        assert!(compare(Some(8)).is_some_and(|at| at < 8) && compare(None).is_some_and(|at| at < 8));
        let last = UserAddr(range.end().0 - 1);
        model.write(last, &[!byte(7, range.len() - 1)]).unwrap();
        assert_eq!(compare(Some(7)), Some(range.len() - 1));
    }
}
