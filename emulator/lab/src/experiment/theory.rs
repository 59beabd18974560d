//! What arithmetic says: the TCP payload that a wire can carry, and which resource bound a run. Never looks at a clock, a
//! ring or a packet.
//!
//! A full segment of MTU bytes occupies `14 + MTU + 4 + 20` bytes of wire time: Ethernet header, FCS, preamble and gap
//! (IEEE 802.3 3.1.1, 4.4.2). Both directions loaded, each also carries the other's ACKs, and what those take is not
//! there for data; a model without them is two to three per cent too high.

use vf_model::NetemSpec;

use super::outcome::{Directions, Hosts, PathResult, PlanView, Theory};

/// Ethernet header: two addresses and the type.
const ETHERNET_HEADER: f64 = 14.0;
/// Least bytes of a frame before its FCS; shorter ones are padded.
const MIN_FRAME: f64 = 60.0;
/// FCS, preamble with start delimiter, and the gap between frames.
const FRAMING: f64 = 4.0 + 8.0 + 12.0;
/// IPv4 and TCP header of a data segment or an ACK without options.
const IP_TCP_HEADERS: f64 = 40.0;
/// The timestamps option, padded (RFC 7323 appendix A).
const TIMESTAMPS: f64 = 12.0;
/// Receivers ACK every second segment (RFC 9293 3.8.6.3); assumed where a run counted no ACK.
const DELAYED_ACK: f64 = 2.0;
/// What of a limited rate has to have passed for that to have bound a run.
const NEAR: f64 = 0.99;
/// From here on a resource counts as used up: utilisation is an average with the start of a run in it.
pub const SATURATED: f64 = 0.97;

/// Bytes of wire time that a frame with this IP packet takes.
fn wire_bytes(ip_bytes: f64) -> f64 {
    (ETHERNET_HEADER + ip_bytes).max(MIN_FRAME) + FRAMING
}

/// IPv4 and TCP header of a data segment or an ACK.
fn headers(timestamps: bool) -> f64 {
    IP_TCP_HEADERS + if timestamps { TIMESTAMPS } else { 0.0 }
}

/// Payload of one direction that has the wire to itself, in the unit of `rate`.
#[must_use]
pub fn naive(mtu: u16, timestamps: bool, rate: f64) -> f64 {
    payload(mtu, headers(timestamps), rate, 0.0)
}

/// Payload of each direction (A to B, B to A) in the unit of `rate` when every direction that carries data is saturated.
/// Receivers send one ACK for `segments_per_ack` segments (above 0); ACKs of a direction whose reverse carries no data
/// cost nothing, as the reverse has room for them.
#[must_use]
pub fn saturated(
    mtu: u16,
    timestamps: bool,
    rate: f64,
    segments_per_ack: f64,
    carries_data: (bool, bool),
) -> (f64, f64) {
    let ack = match carries_data {
        (true, true) => wire_bytes(headers(timestamps)) / segments_per_ack,
        _ => 0.0,
    };
    let each = payload(mtu, headers(timestamps), rate, ack);
    let of = |carries| if carries { each } else { 0.0 };
    (of(carries_data.0), of(carries_data.1))
}

/// Payload of a direction whose every segment shares the wire with `ack` bytes of ACK.
fn payload(mtu: u16, headers: f64, rate: f64, ack: f64) -> f64 {
    let mtu = f64::from(mtu);
    rate * (mtu - headers).max(0.0) / (wire_bytes(mtu) + ack)
}

/// How many segments an ACK it takes for each direction to carry so much, if both do and the wire can at all: the inverse of
/// [`saturated`].
#[must_use]
pub fn segments_per_ack(mtu: u16, timestamps: bool, rate: f64, each: f64) -> Option<f64> {
    let bytes = f64::from(mtu);
    let room = rate * (bytes - headers(timestamps)) / each - wire_bytes(bytes);
    (room > 0.0).then(|| wire_bytes(headers(timestamps)) / room)
}

/// What the wire of this plan allows with the ACK ratio of a run, and with TCP timestamps if it had them. If no ACK was
/// counted (0 or not a number), one ACK for two segments.
#[must_use]
pub fn theory(plan: &PlanView, segments_per_ack: f64, timestamps: bool) -> Theory {
    let segments_per_ack = if segments_per_ack > 0.0 && segments_per_ack.is_finite() {
        segments_per_ack
    } else {
        DELAYED_ACK
    };
    let carries_data = (plan.a_to_b_streams > 0, plan.b_to_a_streams > 0);
    let (a_to_b_mbps, b_to_a_mbps) = saturated(
        plan.mtu,
        timestamps,
        plan.rate_mbps,
        segments_per_ack,
        carries_data,
    );
    let mtu = f64::from(plan.mtu);
    let data = (mtu - headers(timestamps)).max(0.0);
    let ack = wire_bytes(headers(timestamps));
    let naive_mbps = naive(plan.mtu, timestamps, plan.rate_mbps);
    if let Some(rate) = netem_rate(plan) {
        // It counts the bytes of frames, not what they take of a wire beside.
        let (segment, ack) = (wire_bytes(mtu) - FRAMING, ack - FRAMING);
        let acks = match carries_data {
            (true, true) => ack / segments_per_ack,
            _ => 0.0,
        };
        let each = rate * data / (segment + acks);
        let of = |carries, wire: f64| if carries { wire.min(each) } else { 0.0 };
        if each < a_to_b_mbps.max(b_to_a_mbps) {
            let a_to_b_mbps = of(carries_data.0, a_to_b_mbps);
            let b_to_a_mbps = of(carries_data.1, b_to_a_mbps);
            return Theory {
                naive_mbps: naive_mbps.min(rate * data / segment),
                a_to_b_mbps,
                b_to_a_mbps,
                total_mbps: a_to_b_mbps + b_to_a_mbps,
                segments_per_ack,
                timestamps,
                how: format!(
                    "netem's rate x {data} B payload / {:.0} B of frames for each segment",
                    segment + acks
                ),
            };
        }
    }
    let segment = wire_bytes(mtu);
    let how = if carries_data == (true, true) {
        format!(
            "rate x {data} B payload / ({segment} B segment + {ack} B ACK / {segments_per_ack:.2} segments an ACK)"
        )
    } else {
        format!(
            "rate x {data} B payload / {segment} B segment; the ACKs have the other direction to themselves"
        )
    };
    Theory {
        naive_mbps,
        a_to_b_mbps,
        b_to_a_mbps,
        total_mbps: a_to_b_mbps + b_to_a_mbps,
        segments_per_ack,
        timestamps,
        how,
    }
}

/// Whether a hypervisor was busy throughout, or the wire was full in every direction that carries data: no rate can grow.
#[must_use]
pub(super) fn is_used_up(link: Directions, hypervisor: Hosts, carries_data: (bool, bool)) -> bool {
    let full = |carries: bool, used: f64| !carries || used >= SATURATED;
    hypervisor.a.max(hypervisor.b) >= SATURATED
        || full(carries_data.0, link.a_to_b) && full(carries_data.1, link.b_to_a)
}

/// Names what bound a run, from measured utilisation (0 to 1): a hypervisor CPU that was busy throughout, else the
/// directions of the wire that were full of the run's data, else the guests: windows, losses, or their own speed.
#[must_use]
pub fn bottleneck(link: Directions, hypervisor: Hosts, carries_data: (bool, bool)) -> String {
    let full = (
        carries_data.0 && link.a_to_b >= SATURATED,
        carries_data.1 && link.b_to_a >= SATURATED,
    );
    let name = match full {
        _ if hypervisor.a.max(hypervisor.b) >= SATURATED => "Hypervisor CPU",
        (true, true) => "Link (both directions)",
        (true, false) => "Link (A to B)",
        (false, true) => "Link (B to A)",
        (false, false) => "Guests",
    };
    name.to_owned()
}

/// The rate that impairments leave each direction, in 10^6 bit/s, if they do.
fn netem_rate(plan: &PlanView) -> Option<f64> {
    let spec: NetemSpec = plan.netem.as_ref()?.parse().ok()?;
    Some(spec.rate? as f64 / 1e6)
}

/// Names the impairment where it is what bound a run that nothing else did: what passed is what its rate lets pass.
pub(super) fn name_impairment(result: &mut PathResult, plan: &PlanView, theory: &Theory) {
    let passed = result.total_mbps >= NEAR * theory.total_mbps;
    if result.bottleneck == "Guests" && netem_rate(plan).is_some() && passed {
        result.bottleneck = "Impairment (rate)".to_owned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acks_of_2009_are_those_with_which_the_wire_carries_its_figure() {
        let acks = segments_per_ack(1500, false, 10_000.0, 18503.0 / 2.0).unwrap();
        assert!((2.0..2.2).contains(&acks), "{acks}");
        let (there, back) = saturated(1500, false, 10_000.0, acks, (true, true));
        assert!((there + back - 18503.0).abs() < 0.01, "{there} {back}");
        assert_eq!(segments_per_ack(1500, false, 10_000.0, 9500.0), None);
    }

    fn plan(mtu: u16, a_to_b_streams: u16, b_to_a_streams: u16) -> PlanView {
        PlanView {
            a_to_b_streams,
            b_to_a_streams,
            mtu,
            rate_mbps: 10_000.0,
            propagation_ns: 0,
            netem: None,
            seconds: 1.0,
            warm_up_seconds: 0.0,
            tool: None,
            window: Some(1 << 18),
            profile: vf_model::Profile::Generic,
            offloads: vf_nic::config::Offloads::Csum,
            device: vf_nic::config::DeviceKind::Virtio,
            interrupt_moderation_ns: 0,
        }
    }

    #[track_caller]
    fn near(got: f64, want: f64, by: f64) {
        assert!((got - want).abs() <= by, "{got} is not {want} +-{by}");
    }

    #[test]
    fn one_direction_alone() {
        near(naive(1500, false, 10.0), 9.4928, 5e-5); // 1460 / 1538
        near(naive(9000, false, 10.0), 9.9137, 5e-5); // 8960 / 9038
        near(naive(1500, false, 1000.0), 949.28, 5e-3);
    }

    #[test]
    fn both_directions_by_ack_ratio() {
        for (segments, want) in [
            (1.0, 9.001),
            (2.0, 9.2405),
            (4.0, 9.365),
            (8.0, 9.428),
            (16.0, 9.4606),
        ] {
            let (a, b) = saturated(1500, false, 10.0, segments, (true, true));
            near(a, want, 5e-4);
            assert_eq!(a, b);
        }
        near(
            saturated(1500, false, 10.0, 2.0, (true, true)).0,
            9.2405,
            5e-5,
        );
        near(
            saturated(9000, false, 10.0, 2.0, (true, true)).0,
            9.8678,
            5e-5,
        ); // 8960 / (9038 + 42)
    }

    #[test]
    fn timestamps_cost_payload_and_lengthen_acks() {
        near(naive(1500, true, 10.0), 9.4148, 5e-5); // 1448 / 1538
        near(naive(9000, true, 10.0), 9.9004, 5e-5); // 8948 / 9038
        for (segments, want) in [(1.0, 8.894), (2.0, 9.147), (8.0, 9.3465), (16.0, 9.381)] {
            let both = saturated(1500, true, 10.0, segments, (true, true));
            near(both.0, want, 5e-4);
        }
    }

    #[test]
    fn acks_on_an_idle_reverse_are_free() {
        assert_eq!(
            saturated(1500, false, 10.0, 1.0, (true, false)),
            (naive(1500, false, 10.0), 0.0)
        );
        assert_eq!(
            saturated(1500, false, 10.0, 1.0, (false, true)),
            (0.0, naive(1500, false, 10.0))
        );
        assert_eq!(
            saturated(1500, false, 10.0, 1.0, (false, false)),
            (0.0, 0.0)
        );
        let one_way = theory(&plan(1500, 4, 0), 2.0, false);
        assert_eq!(one_way.b_to_a_mbps, 0.0);
        assert_eq!(one_way.total_mbps, one_way.naive_mbps);
        assert!(one_way.how.ends_with("to themselves"), "{}", one_way.how);
    }

    #[test]
    fn acks_are_padded_to_the_least_frame() {
        assert_eq!(wire_bytes(IP_TCP_HEADERS), 84.0);
        assert_eq!(wire_bytes(46.0), 84.0);
        assert_eq!(wire_bytes(47.0), 85.0);
        assert_eq!(wire_bytes(1500.0), 1538.0);
    }

    #[test]
    fn the_plan_in_words() {
        let both = theory(&plan(1500, 4, 4), 2.0, false);
        near(both.total_mbps, 18_481.0, 0.1);
        assert_eq!(
            both.how,
            "rate x 1460 B payload / (1538 B segment + 84 B ACK / 2.00 segments an ACK)"
        );
        assert_eq!(
            theory(&plan(1500, 4, 4), f64::NAN, false),
            both,
            "no ACK counted"
        );
        assert_eq!(theory(&plan(1500, 4, 4), 0.0, false), both);
        assert_eq!(
            theory(&plan(20, 1, 1), 2.0, false).total_mbps,
            0.0,
            "an MTU without room for payload"
        );
    }

    #[test]
    fn a_rate_that_frames_pass_at_is_what_is_there_for_data() {
        let limited = |words: &str, there, back| {
            let netem = Some(words.to_owned());
            let plan = PlanView {
                netem,
                ..plan(1500, there, back)
            };
            theory(&plan, 2.0, false)
        };
        // 1460 of 1514 bytes.
        near(limited("rate 1gbit", 1, 0).total_mbps, 964.3, 0.1);
        near(limited("rate 1gbit", 1, 1).total_mbps, 1891.2, 0.1);
        let wire = theory(&plan(1500, 1, 1), 2.0, false);
        for words in ["rate 40gbit", "delay 1ms loss 1%"] {
            assert_eq!(limited(words, 1, 1), wire, "{words}");
        }
    }

    #[test]
    fn bottleneck_is_what_was_used_up() {
        let link = |a_to_b, b_to_a| Directions { a_to_b, b_to_a };
        let cpu = |a, b| Hosts { a, b };
        let both = (true, true);
        assert_eq!(
            bottleneck(link(0.47, 0.46), cpu(0.97, 0.2), both),
            "Hypervisor CPU"
        );
        assert_eq!(
            bottleneck(link(1.0, 1.0), cpu(0.0, 0.99), both),
            "Hypervisor CPU"
        );
        assert_eq!(
            bottleneck(link(0.97, 0.999), cpu(0.1, 0.1), both),
            "Link (both directions)"
        );
        assert_eq!(
            bottleneck(link(0.98, 0.96), cpu(0.969, 0.1), both),
            "Link (A to B)"
        );
        assert_eq!(
            bottleneck(link(0.5, 0.98), cpu(0.1, 0.1), both),
            "Link (B to A)"
        );
        assert_eq!(bottleneck(link(0.5, 0.5), cpu(0.1, 0.1), both), "Guests");
        assert_eq!(
            bottleneck(link(0.99, 0.05), cpu(0.0, 0.0), (true, false)),
            "Link (A to B)"
        );
        assert_eq!(
            bottleneck(link(0.99, 0.98), cpu(0.0, 0.0), (false, true)),
            "Link (B to A)",
            "A to B carries no data"
        );
    }
}
