//! Metrics for Prometheus and its peers: the page, and who answers scrapes with it. Asks no plane for anything.

mod page;
mod server;

pub use page::{Format, page};
pub use server::{MetricsAddress, MetricsAddressError, MetricsError, ScrapeSocket};
