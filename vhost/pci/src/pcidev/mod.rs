//! A PCI device of User-Mode Linux (`CONFIG_UML_PCI_OVER_VIRTIO`): a vhost-user device with two split virtqueues, by one of which the
//! kernel reaches configuration space and BARs, and by the other of which the device interrupts it. DMA is the guest's memory as the
//! session has it. Knows no register of the function behind it.

pub mod device;
pub mod endpoint;
mod message;
