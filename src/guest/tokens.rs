//! The RTAS calls for dynamic DMA windows, and the tokens a guest names them with.

/// An RTAS call that is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtasCall {
    /// `ibm,query-pe-dma-window`: config address, BUID high, low; 5 results, or 6 with a 64-bit block.
    QueryPeDmaWindow,
    /// `ibm,create-pe-dma-window`: config address, BUID high, low, page shift, window shift; status, LIOBN, address high, low.
    CreatePeDmaWindow,
    /// `ibm,remove-pe-dma-window`: LIOBN; status.
    RemovePeDmaWindow,
    /// `ibm,reset-pe-dma-window`: config address, BUID high, low, and perhaps 1 for limited addressing; status.
    ResetPeDmaWindow,
}

/// RTAS tokens of the calls for dynamic windows: any four numbers that no other call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdwTokens {
    /// `ibm,query-pe-dma-window`.
    pub query: u32,
    /// `ibm,create-pe-dma-window`.
    pub create: u32,
    /// `ibm,remove-pe-dma-window`.
    pub remove: u32,
    /// `ibm,reset-pe-dma-window`.
    pub reset: u32,
}

impl DdwTokens {
    /// The call with that token.
    pub fn call(&self, token: u32) -> Option<RtasCall> {
        match token {
            _ if token == self.query => Some(RtasCall::QueryPeDmaWindow),
            _ if token == self.create => Some(RtasCall::CreatePeDmaWindow),
            _ if token == self.remove => Some(RtasCall::RemovePeDmaWindow),
            _ if token == self.reset => Some(RtasCall::ResetPeDmaWindow),
            _ => None,
        }
    }

    /// Names and tokens, as they stand in the `/rtas` node.
    pub fn names(&self) -> [(&'static str, u32); 4] {
        [
            ("ibm,query-pe-dma-window", self.query),
            ("ibm,create-pe-dma-window", self.create),
            ("ibm,remove-pe-dma-window", self.remove),
            ("ibm,reset-pe-dma-window", self.reset),
        ]
    }
}
