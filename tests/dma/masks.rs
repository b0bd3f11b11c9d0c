//! What a mask allows: refused at open where it allows nothing, and the remedy where it is what
//! limits.

use crate::fixture::{FIRST, Fixture, PRESETS, RW, SECOND, bits};
use spapr_iommu::dma::{DmaError, DmaMask, OpenError};
use spapr_iommu::host::Host;

#[test]
fn a_mask_is_refused_at_open_or_gets_memory() {
    for preset in PRESETS {
        for mask in 1..=64 {
            let fixture = Fixture::new(preset);
            match fixture.dma.open(FIRST, bits(mask)) {
                Ok(device) => {
                    let buffer = fixture.dma.buffer::<u8>(64, RW).unwrap();
                    assert!(bits(mask).reaches(buffer.iova_range()), "{preset}, {mask} bits");
                    drop((buffer, device));
                }
                Err(OpenError::Dma(DmaError::MaskTooSmall { mask: told, lowest, least })) => {
                    let needed = if fixture.model.page_shift().bytes() == 4096 { 13 } else { 17 };
                    assert_eq!((told, lowest.0, least), (bits(mask), 4096, bits(needed)), "{preset}");
                    assert!(mask < needed, "{preset}, {mask} bits");
                }
                Err(error) => panic!("{preset}, {mask} bits: {error}"),
            }
            fixture.ends_clean();
        }
    }
}

/// Two small buffers of one page would not show that the second one has no page in reach.
#[test]
fn memory_stays_in_reach_of_a_mask_within_the_window() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST, bits(24)).unwrap();
        let mut all = Vec::new();
        let refused = loop {
            match fixture.dma.buffer::<u8>(1 << 20, RW) {
                Ok(buffer) => all.push(buffer),
                Err(error) => break error,
            }
        };
        assert_eq!(all.len(), 15, "{preset}: 16 MiB without the first page");
        assert!(all.iter().all(|buffer| bits(24).reaches(buffer.iova_range())), "{preset}");
        let DmaError::NoRoomInReach { mask, largest, .. } = refused else { panic!("{refused}") };
        assert_eq!((mask, largest), (bits(24), (1 << 20) - 4096), "{preset}");
        assert!(!refused.to_string().contains("capacity"), "no window is large enough: {refused}");
        // What is free in reach is found, though more is free beyond.
        all.remove(7);
        all.push(fixture.dma.buffer::<u8>(1 << 20, RW).unwrap());
        assert!(all.iter().all(|buffer| bits(24).reaches(buffer.iova_range())), "{preset}");
        drop((all, device));
        fixture.ends_clean();
    }
}

#[test]
fn a_full_default_window_is_no_matter_of_capacity() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST, bits(32)).unwrap();
    let refused = fixture.dma.buffer::<u8>(3 << 30, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInReach { bytes, .. } if bytes == 3 << 30), "{refused:?}");
    assert!(!refused.to_string().contains("capacity"), "{refused}");
    drop(device);
    fixture.ends_clean();
}

#[test]
fn a_device_that_comes_later_with_fewer_bits_gets_what_it_reaches() {
    let fixture = Fixture::new("powernv9-64k");
    let first = fixture.dma.open(FIRST, bits(32)).unwrap();
    let low = fixture.dma.buffer::<u8>(15 << 20, RW).unwrap();
    let second = fixture.dma.open(SECOND, bits(24)).unwrap();
    let refused = fixture.dma.buffer::<u8>(2 << 20, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInReach { largest, .. } if largest < 1 << 20), "{refused:?}");
    drop(low);
    let fits = fixture.dma.buffer::<u8>(2 << 20, RW).unwrap();
    assert!(bits(24).reaches(fits.iova_range()) && DmaMask::ALL.reaches(fits.iova_range()));
    drop((first, second, fits));
    fixture.ends_clean();
}
