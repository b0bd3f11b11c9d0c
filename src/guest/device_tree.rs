//! Device tree properties of a PHB's DMA windows (LoPAR, "DMA window" properties).

use super::phb::Phb;
use super::tokens::DdwTokens;

/// A property of a node: its name and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The name.
    pub name: &'static str,
    /// Property value: cells, big endian.
    pub value: Vec<u8>,
}

fn property(name: &'static str, cells: &[u32]) -> Property {
    Property { name, value: cells.iter().flat_map(|cell| cell.to_be_bytes()).collect() }
}

impl Phb {
    /// Returns the DMA properties of the PHB's node: address and size cells (2 each), the default
    /// window (20 bytes), and the calls for dynamic windows: their tokens, and, as extensions, a
    /// reset call and a query with 6 results.
    pub fn properties(&self, tokens: &DdwTokens) -> Vec<Property> {
        let (liobn, window) = (self.config().liobn.0, self.config().default);
        let [start, size] = [window.start().0, window.len()].map(|value| [(value >> 32) as u32, value as u32]);
        vec![
            property("ibm,#dma-address-cells", &[2]),
            property("ibm,#dma-size-cells", &[2]),
            property("ibm,dma-window", &[liobn, start[0], start[1], size[0], size[1]]),
            property("ibm,ddw-applicable", &[tokens.query, tokens.create, tokens.remove]),
            property("ibm,ddw-extensions", &[2, tokens.reset, 1]),
        ]
    }
}
