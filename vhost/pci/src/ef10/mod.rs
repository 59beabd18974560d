//! The virtual function of Solarflare's EF10 family (SFC9120, PCI ID 1924:1903).
