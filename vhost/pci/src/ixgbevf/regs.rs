//! Offsets and bits of the registers in BAR 0. Reads and writes none.

/// Device control; nothing but a reset is in it.
pub(super) const VFCTRL: u64 = 0x0;
pub(super) const CTRL_RST: u32 = 1 << 26;
pub(super) const VFSTATUS: u64 = 0x8;
/// The function may be a bus master.
pub(super) const STATUS_GIO_MASTER_ENABLE: u32 = 1 << 19;
pub(super) const VFLINKS: u64 = 0x10;
pub(super) const LINKS_UP: u32 = 1 << 30;
pub(super) const LINKS_SPEED_10G: u32 = 3 << 28;
pub(super) const LINKS_SPEED_1G: u32 = 2 << 28;
pub(super) const LINKS_SPEED_100M: u32 = 1 << 28;

/// Causes; set of causes; mask, set and clear; causes that end and masks that begin with an interrupt.
pub(super) const VTEICR: u64 = 0x100;
pub(super) const VTEICS: u64 = 0x104;
pub(super) const VTEIMS: u64 = 0x108;
pub(super) const VTEIMC: u64 = 0x10c;
pub(super) const VTEIAC: u64 = 0x110;
pub(super) const VTEIAM: u64 = 0x114;
/// Which vector the queues have, two pairs a register, and everything else.
pub(super) const VTIVAR: u64 = 0x120;
pub(super) const VTIVAR_END: u64 = 0x130;
pub(super) const VTIVAR_MISC: u64 = 0x140;
/// Time between interrupts, by vector.
pub(super) const VTEITR: u64 = 0x820;
pub(super) const VTEITR_END: u64 = 0x82c;

/// The message, 16 words.
pub(super) const VFMBMEM: u64 = 0x200;
pub(super) const VFMBMEM_END: u64 = 0x240;
pub(super) const VFMAILBOX: u64 = 0x2fc;

pub(super) const VFPSRTYPE: u64 = 0x300;
pub(super) const PSRTYPE_WRITABLE: u32 = 0xe007_3f72;
/// Bits of a queue's number that the redirection table gives.
pub(super) const PSRTYPE_QUEUES: u32 = 7 << 29;

/// Registers of the queues, so many bytes each.
pub(super) const RX_QUEUES: u64 = 0x1000;
pub(super) const RX_QUEUES_END: u64 = 0x1200;
pub(super) const TX_QUEUES: u64 = 0x2000;
pub(super) const TX_QUEUES_END: u64 = 0x2200;
pub(super) const QUEUE_STRIDE: u64 = 0x40;

/// In the registers of a queue.
pub(super) const BASE_LOW: u64 = 0x0;
pub(super) const BASE_HIGH: u64 = 0x4;
pub(super) const LENGTH: u64 = 0x8;
pub(super) const DCA_CONTROL: u64 = 0xc;
pub(super) const HEAD: u64 = 0x10;
/// Of a receive queue only.
pub(super) const SRRCTL: u64 = 0x14;
pub(super) const TAIL: u64 = 0x18;
pub(super) const CONTROL: u64 = 0x28;
/// Of a receive queue only.
pub(super) const RSCCTL: u64 = 0x2c;
/// Of a transmit queue only.
pub(super) const WRITE_BACK_LOW: u64 = 0x38;
pub(super) const WRITE_BACK_HIGH: u64 = 0x3c;

/// Rings are multiples of 128 bytes, on such addresses, of up to 20 bits.
pub(super) const BASE_LOW_WRITABLE: u32 = !0x7f;
pub(super) const LENGTH_WRITABLE: u32 = 0x000f_ff80;
pub(super) const CONTROL_ENABLE: u32 = 1 << 25;
/// Flushes write-backs, which never wait here; reads as 0.
pub(super) const CONTROL_FLUSH: u32 = 1 << 26;
/// The tag of a frame is taken out of it.
pub(super) const RXDCTL_VLAN_MODE: u32 = 1 << 30;
/// Size of a buffer in KiB.
pub(super) const SRRCTL_BUFFER: u32 = 0x1f;

/// Statistics.
pub(super) const VFGPRC: u64 = 0x101c;
pub(super) const VFGORC_LSB: u64 = 0x1020;
pub(super) const VFGORC_MSB: u64 = 0x1024;
pub(super) const VFMPRC: u64 = 0x1034;
pub(super) const VFGPTC: u64 = 0x201c;
pub(super) const VFGOTC_LSB: u64 = 0x2020;
pub(super) const VFGOTC_MSB: u64 = 0x2024;
