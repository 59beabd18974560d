//! The virtual function of Intel's 82599 (PCI ID 8086:10ed).
