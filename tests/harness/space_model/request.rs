//! Window requests, sensible or not.

use super::number::{Bus, Bytes};
use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::window::WindowRequest;

/// A request for a window.
#[derive(Clone, Copy, Debug)]
pub struct Request(pub WindowRequest);

fn page(u: &mut Unstructured<'_>) -> Result<Option<PageShift>> {
    Ok(match u.int_in_range(0..=7_u8)? {
        0..=3 => None,
        4 => Some(PageShift::P4K),
        5 => Some(PageShift::P64K),
        6 => Some(PageShift::P2M),
        _ => PageShift::new(u.int_in_range(12..=34)?),
    })
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let Bytes(bytes) = u.arbitrary()?;
        let mut request = WindowRequest::bytes(bytes);
        if u.ratio(1, 3)?
            && let Ok(range) = IovaRange::new(Iova(u.arbitrary::<Bus>()?.0), bytes)
        {
            request = WindowRequest::cover(range);
        }
        (request.page, request.max_iommu_page) = (page(u)?, page(u)?);
        if u.ratio(1, 8)? {
            request = request.reach(u.arbitrary::<Bytes>()?.0);
        }
        if u.ratio(1, 8)? {
            request = request.entries(u.arbitrary::<Bytes>()?.0);
        }
        Ok(Self(request))
    }
}
