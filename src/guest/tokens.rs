//! RTAS calls for dynamic DMA windows, and the tokens with which a guest names them.

/// An RTAS call handled here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtasCall {
    /// `ibm,query-pe-dma-window`: config address, BUID high, low; 5 results, or 6 with a 64-bit
    /// block.
    QueryPeDmaWindow,
    /// `ibm,create-pe-dma-window`: config address, BUID high, low, page shift, window shift;
    /// status, LIOBN, address high, low.
    CreatePeDmaWindow,
    /// `ibm,remove-pe-dma-window`: LIOBN; status.
    RemovePeDmaWindow,
    /// `ibm,reset-pe-dma-window`: config address, BUID high, low, and optionally 1 for limited
    /// addressing; status.
    ResetPeDmaWindow,
}

/// RTAS tokens of the calls for dynamic windows: any four numbers that no other call uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DdwTokens {
    /// Token of `ibm,query-pe-dma-window`.
    pub query: u32,
    /// Token of `ibm,create-pe-dma-window`.
    pub create: u32,
    /// Token of `ibm,remove-pe-dma-window`.
    pub remove: u32,
    /// Token of `ibm,reset-pe-dma-window`.
    pub reset: u32,
}

impl DdwTokens {
    /// Returns the call with that token.
    pub fn call(&self, token: u32) -> Option<RtasCall> {
        match token {
            _ if token == self.query => Some(RtasCall::QueryPeDmaWindow),
            _ if token == self.create => Some(RtasCall::CreatePeDmaWindow),
            _ if token == self.remove => Some(RtasCall::RemovePeDmaWindow),
            _ if token == self.reset => Some(RtasCall::ResetPeDmaWindow),
            _ => None,
        }
    }

    /// Returns names and tokens, as in the `/rtas` node.
    pub fn names(&self) -> [(&'static str, u32); 4] {
        [
            ("ibm,query-pe-dma-window", self.query),
            ("ibm,create-pe-dma-window", self.create),
            ("ibm,remove-pe-dma-window", self.remove),
            ("ibm,reset-pe-dma-window", self.reset),
        ]
    }
}
