//! The commands of MCDI by number: those that a VF's driver sends, and those that only the driver of a PF may. Answers none.

use std::fmt;

/// A command, known or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Command(pub(crate) u16);

macro_rules! commands {
    ($($name:ident = $number:literal,)*) => {
        impl Command {
            $(pub(crate) const $name: Command = Command($number);)*
        }

        impl fmt::Display for Command {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Command::$name => f.write_str(stringify!($name)),)*
                    Command(number) => write!(f, "{number:#x}"),
                }
            }
        }
    };
}

commands! {
    GET_BOOT_STATUS = 0x05,
    GET_ASSERTS = 0x06,
    LOG_CTRL = 0x07,
    GET_VERSION = 0x08,
    PTP = 0x0b,
    GET_BOARD_CFG = 0x18,
    DRV_ATTACH = 0x1c,
    ENTITY_RESET = 0x20,
    GET_PHY_CFG = 0x24,
    START_BIST = 0x25,
    GET_LOOPBACK_MODES = 0x28,
    GET_LINK = 0x29,
    SET_LINK = 0x2a,
    SET_ID_LED = 0x2b,
    SET_MAC = 0x2c,
    MAC_STATS = 0x2e,
    NVRAM_TYPES = 0x36,
    NVRAM_INFO = 0x37,
    REBOOT = 0x3d,
    SENSOR_INFO = 0x41,
    READ_SENSORS = 0x42,
    GET_PHY_STATE = 0x43,
    WORKAROUND = 0x4a,
    GET_PHY_MEDIA_INFO = 0x4b,
    NVRAM_METADATA = 0x52,
    GET_MAC_ADDRESSES = 0x55,
    GET_WORKAROUNDS = 0x59,
    PRIVILEGE_MASK = 0x5a,
    VADAPTOR_SET_MAC = 0x5d,
    VADAPTOR_GET_MAC = 0x5e,
    PRIVILEGE_MODIFY = 0x60,
    VADAPTOR_QUERY = 0x61,
    EVB_PORT_QUERY = 0x62,
    INIT_EVQ = 0x80,
    INIT_RXQ = 0x81,
    INIT_TXQ = 0x82,
    FINI_EVQ = 0x83,
    FINI_RXQ = 0x84,
    FINI_TXQ = 0x85,
    DRIVER_EVENT = 0x86,
    FILTER_OP = 0x8a,
    ALLOC_VIS = 0x8b,
    FREE_VIS = 0x8c,
    GET_VI_ALLOC_INFO = 0x8d,
    ALLOC_PIOBUF = 0x8f,
    FREE_PIOBUF = 0x90,
    LINK_PIOBUF = 0x92,
    VSWITCH_ALLOC = 0x94,
    VSWITCH_FREE = 0x95,
    VPORT_ALLOC = 0x96,
    VPORT_FREE = 0x97,
    VADAPTOR_ALLOC = 0x98,
    VADAPTOR_FREE = 0x99,
    EVB_PORT_ASSIGN = 0x9a,
    RSS_CONTEXT_ALLOC = 0x9e,
    RSS_CONTEXT_FREE = 0x9f,
    RSS_CONTEXT_SET_KEY = 0xa0,
    RSS_CONTEXT_GET_KEY = 0xa1,
    RSS_CONTEXT_SET_TABLE = 0xa2,
    RSS_CONTEXT_GET_TABLE = 0xa3,
    VPORT_ADD_MAC_ADDRESS = 0xa8,
    VPORT_DEL_MAC_ADDRESS = 0xa9,
    VPORT_GET_MAC_ADDRESSES = 0xaa,
    GET_CLOCK = 0xac,
    GET_PF_COUNT = 0xb6,
    GET_PORT_ASSIGNMENT = 0xb8,
    SET_TLP_PROCESSING_GLOBALS = 0xbd,
    GET_CAPABILITIES = 0xbe,
    GET_RXDP_CONFIG = 0xc2,
    RSS_CONTEXT_SET_FLAGS = 0xe1,
    RSS_CONTEXT_GET_FLAGS = 0xe2,
    TRIGGER_INTERRUPT = 0xe3,
    GET_PARSER_DISP_INFO = 0xe4,
    VPORT_RECONFIGURE = 0xeb,
    GET_FUNCTION_INFO = 0xec,
    ENABLE_OFFLINE_BIST = 0xed,
    SET_EVQ_TMR = 0x120,
    GET_EVQ_TMR_PROPERTIES = 0x122,
}

impl Command {
    /// Whether it takes a privilege that no VF has: of administration, of the link, or of what Onload uses.
    pub(crate) fn is_privileged(self) -> bool {
        matches!(
            self,
            Command::GET_BOOT_STATUS
                | Command::PTP
                | Command::GET_BOARD_CFG
                | Command::START_BIST
                | Command::SET_ID_LED
                | Command::NVRAM_TYPES
                | Command::NVRAM_INFO
                | Command::REBOOT
                | Command::SENSOR_INFO
                | Command::READ_SENSORS
                | Command::GET_PHY_MEDIA_INFO
                | Command::NVRAM_METADATA
                | Command::GET_MAC_ADDRESSES
                | Command::PRIVILEGE_MODIFY
                | Command::ALLOC_PIOBUF
                | Command::FREE_PIOBUF
                | Command::LINK_PIOBUF
                | Command::VSWITCH_ALLOC
                | Command::VSWITCH_FREE
                | Command::VPORT_ALLOC
                | Command::VPORT_FREE
                | Command::VPORT_ADD_MAC_ADDRESS
                | Command::VPORT_DEL_MAC_ADDRESS
                | Command::VPORT_RECONFIGURE
                | Command::EVB_PORT_ASSIGN
                | Command::SET_TLP_PROCESSING_GLOBALS
                | Command::ENABLE_OFFLINE_BIST
        )
    }
}
