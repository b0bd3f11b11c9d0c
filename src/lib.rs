//! DMA memory manager for POWER.
