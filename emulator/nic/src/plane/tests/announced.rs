//! Frames that are sent on behalf of a guest that has migrated to here.

use vf_packet::rarp;

use super::*;

fn announce(bench: &mut Bench, path: Path, of: MacAddr) {
    let (now, frame) = (bench.now, rarp::announcement(of));
    bench.with_rings(path, |rings| rings.send(now, VfIndex(0), &frame));
    bench.settle();
}

#[test]
fn a_guest_is_announced_as_if_it_had_done_so_itself() {
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut bench = Bench::new(&[path; 2], ENDLESS);
        bench.command("vf 0 set vlan 7");
        bench.command("vf 1 set vlan 7");
        announce(&mut bench, path, mac(0));
        bench.run_until(MS);
        let frame = rarp::announcement(mac(0));
        bench.vms[1].receive();
        assert_eq!(bench.vms[1].got, [&frame[..]], "{path}");
        let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
        assert_eq!(bench.arrived, [tagged], "{path}");
        assert_eq!(bench.counters(0).tx_packets, 1);
        assert_eq!(bench.vms[0].receive(), 0);
        // The front end of a guest that it does not trust is trusted no more.
        announce(&mut bench, path, mac(1));
        assert_eq!(bench.drops(), [(DropReason::SpoofedMac, 1)], "{path}");
    }
}

#[test]
fn an_announcement_waits_for_no_frame_and_takes_no_frames_place() {
    // Nothing more may go on the wire for now, and a frame waits for that already.
    let mut bench = Bench::new(&[Path::Direct], Nanos(0));
    while !bench.worker.is_blocked(VfIndex(0)) {
        bench.vms[0].send(BEYOND);
        bench.worker.poll(bench.now);
    }
    let sent = bench.vms[0].sent as usize;
    announce(&mut bench, Path::Direct, mac(0));
    announce(&mut bench, Path::Direct, mac(0));
    bench.run_until(LATE);
    let (rarp, data): (Vec<_>, Vec<_>) = bench.arrived.iter().partition(|frame| frame[12] == 0x80);
    assert_eq!((rarp.len(), data.len()), (2, sent));
    assert_eq!(bench.drops(), []);
}
