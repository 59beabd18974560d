//! What the PF answers, by what the administrator has said.

use vf_guest::ixgbevf::{CLEAR_TO_SEND, DriverError, FAILURE, SUCCESS};

use super::*;

const YES: u32 = SUCCESS | CLEAR_TO_SEND;
const NO: u32 = FAILURE | CLEAR_TO_SEND;
const XCAST: u32 = 0xc;

fn started(vf: u8, profile: Profile) -> (Guest, Driver) {
    let mut guest = Guest::with(vf, profile);
    let driver = guest.start();
    (guest, driver)
}

fn mac(last: u8) -> [u32; 2] {
    [0x0000_0002, u32::from(last) << 8]
}

#[test]
fn versions_are_agreed_on_and_words_belong_to_them() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let mut says = |message: &[u32]| driver.message(&mut guest, message).unwrap()[0];
    for (version, known) in [
        (0, true),
        (1, false),
        (2, true),
        (5, true),
        (6, false),
        (7, false),
    ] {
        let answer = 8 | if known { YES } else { NO };
        assert_eq!(says(&[8, version]), answer, "{version}");
    }
    for (version, words) in [(0, &[][..]), (2, &[9]), (3, &[9, 0x10, XCAST])] {
        says(&[8, version]);
        for word in [9, 0x10, XCAST] {
            let known = words.contains(&word);
            let answer = says(&[word, 1]);
            assert_eq!(answer, word | if known { YES } else { NO });
        }
    }
    // Nobody knows these: IPsec, and what will be.
    for word in [0, 7, 0xd, 0xe, 0x11, 0xffff] {
        assert_eq!(says(&[word]), word | NO);
    }
    assert_eq!(says(&[9]), 9 | YES, "still the last version agreed on");
}

#[test]
fn a_driver_gets_its_queues_and_learns_that_it_is_in_a_vlan() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let queues = driver.ask(&mut guest, &[9]).unwrap();
    assert_eq!(queues[1..5], [2, 2, 0, 0]);
    guest.administer("vf 0 vlan 5");
    let queues = driver.ask(&mut guest, &[9]).unwrap();
    assert_eq!(queues[1..5], [2, 2, 1, 0]);
}

/// Linux's driver takes two on a machine with two CPUs, whatever it is told.
#[test]
fn a_function_has_as_many_queue_pairs_as_the_silicon_gives_one() {
    for (wanted, has) in [(1, 2), (2, 2), (3, 4), (5, 8), (8, 8), (9, 8)] {
        let mut guest = Guest::with(0, Profile::Generic);
        guest.function = Ixgbevf::new(wanted);
        guest.map(Some(guest.dma()));
        let mut driver = guest.start();
        let queues = driver.ask(&mut guest, &[9]).unwrap();
        assert_eq!(queues[1..3], [has, has], "{wanted}");
    }
}

#[test]
fn without_trust_a_driver_is_told_that_it_gets_no_more_than_groups() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let mut mode = |guest: &mut Guest, mode| driver.ask(guest, &[XCAST, mode]).unwrap()[1];
    for (asked, granted) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
        assert_eq!(mode(&mut guest, asked), granted);
    }
    let vf = guest.nic.vf;
    assert!(!guest.nic.policy.in_force(vf).mode.promisc);
    guest.administer("vf 0 trust on");
    assert!(
        guest.nic.policy.in_force(vf).mode.promisc,
        "it is remembered"
    );
    for (asked, granted) in [(0, 0), (1, 1), (2, 2), (3, 3)] {
        assert_eq!(mode(&mut guest, asked), granted);
    }
    assert!(driver.ask(&mut guest, &[XCAST, 4]).is_err());
    // The silicon has no such mode.
    let (mut guest, mut driver) = started(0, Profile::Ixgbe);
    assert_eq!(driver.ask(&mut guest, &[XCAST, 3]).unwrap()[1], 1);
    guest.administer("vf 0 trust on");
    assert_eq!(driver.ask(&mut guest, &[XCAST, 2]).unwrap()[1], 2);
    let no = driver.ask(&mut guest, &[XCAST, 3]);
    assert_eq!(no, Err(DriverError::Refused(XCAST | NO)));
    // Before 1.3 nobody asked for that.
    driver.ask(&mut guest, &[8, 3]).unwrap();
    assert!(driver.ask(&mut guest, &[XCAST, 3]).is_err());
}

/// DPDK's net_ixgbe_vf asks for no mode when it leaves promiscuous mode.
#[test]
fn a_driver_that_asks_for_no_mode_has_broadcasts_and_the_groups_that_it_names_then() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let vf = guest.nic.vf;
    driver.ask(&mut guest, &[XCAST, 0]).unwrap();
    let mode = guest.nic.policy.in_force(vf).mode;
    assert!(mode.nomulti && !mode.nobcast);
    driver.ask(&mut guest, &[3 | 1 << 16, 0x30]).unwrap();
    assert!(!guest.nic.policy.in_force(vf).mode.nomulti);
}

#[test]
fn an_address_that_the_administrator_has_set_stays() {
    let (mut guest, mut driver) = started(0, Profile::Ixgbe);
    let vf = guest.nic.vf;
    let [low, high] = mac(0x77);
    driver.ask(&mut guest, &[2, low, high]).unwrap();
    assert_eq!(guest.nic.policy.mac(vf), MacAddr([2, 0, 0, 0, 0, 0x77]));
    for wrong in [[1, 0], [0, 0]] {
        let no = driver.ask(&mut guest, &[2, wrong[0], wrong[1]]);
        assert_eq!(no, Err(DriverError::Refused(2 | NO)));
    }
    guest.administer("vf 0 mac 02:00:00:00:00:55");
    assert!(driver.ask(&mut guest, &[2, low, high]).is_err());
    let [low55, high55] = mac(0x55);
    driver.ask(&mut guest, &[2, low55, high55]).unwrap();
    // Nor may it have others besides, which it may otherwise.
    let more = 6 | 1 << 16;
    assert!(driver.ask(&mut guest, &[more, low, high]).is_err());
    guest.administer("vf 0 trust on");
    driver.ask(&mut guest, &[more, low, high]).unwrap();
    driver.ask(&mut guest, &[2, low, high]).unwrap();
    assert_eq!(guest.nic.policy.mac(vf), MacAddr([2, 0, 0, 0, 0, 0x77]));
    driver.reset(&mut guest).unwrap();
    assert_eq!(driver.mac, [2, 0, 0, 0, 0, 0x77], "the PF keeps it");
    guest.administer("vf 0 trust off");
    driver.reset(&mut guest).unwrap();
    assert_eq!(driver.mac, [2, 0, 0, 0, 0, 0x55], "it may not have it");
    guest.administer("vf 0 trust on");
    driver.ask(&mut guest, &[2, low, high]).unwrap();
    guest.function.reset(&mut guest.nic);
    driver.reset(&mut guest).unwrap();
    assert_eq!(driver.mac, [2, 0, 0, 0, 0, 0x77], "so it does here");
    guest.function.forget();
    guest.function.reset(&mut guest.nic);
    driver.reset(&mut guest).unwrap();
    assert_eq!(driver.mac, [2, 0, 0, 0, 0, 0x55], "another guest may come");
}

#[test]
fn further_addresses_are_listed_one_by_one() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let vf = guest.nic.vf;
    let mut list = |guest: &mut Guest, index: u32, last| {
        let [low, high] = mac(last);
        driver
            .message(guest, &[6 | index << 16, low, high])
            .unwrap()[0]
    };
    let have = |guest: &Guest| guest.nic.policy.in_force(vf).unicast.len();
    let said = |index: u32, yes: bool| 6 | index << 16 | if yes { YES } else { NO };
    assert_eq!(list(&mut guest, 1, 0x81), said(1, true));
    assert_eq!(list(&mut guest, 2, 0x82), said(2, true));
    assert_eq!(have(&guest), 2);
    assert_eq!(list(&mut guest, 1, 0x83), said(1, true));
    assert_eq!(have(&guest), 1, "the first one begins a new list");
    assert_eq!(list(&mut guest, 0, 0), said(0, true));
    assert_eq!(have(&guest), 0);
    let granted = (1..=255u32).filter(|i| list(&mut guest, *i, *i as u8) & SUCCESS != 0);
    let granted: Vec<_> = granted.collect();
    // The first three are those of other VFs; and no more than any VF without trust may have.
    assert_eq!(granted, (4..20).collect::<Vec<_>>());
    assert_eq!(have(&guest), 16);
    for _ in 0..1000 {
        list(&mut guest, 255, 9);
    }
    assert_eq!(have(&guest), 16);
}

#[test]
fn groups_are_listed_by_their_hash_and_vlans_one_by_one() {
    let (mut guest, mut driver) = started(0, Profile::Ixgbe);
    let vf = guest.nic.vf;
    let in_force = |guest: &Guest| guest.nic.policy.in_force(vf).clone();
    assert_eq!(in_force(&guest).multicast, Some(vec![]), "none are listed");
    let groups = 3 | 3 << 16;
    driver
        .ask(&mut guest, &[groups, 0x0fff_0010, 0xffff_f123, 0x1234])
        .unwrap();
    let hashes: Vec<u16> = in_force(&guest)
        .group_hashes
        .iter()
        .map(|h| h.get())
        .collect();
    assert_eq!(hashes, [0x10, 0x123, 0xfff]);
    // As many as the message has room for.
    let all: Vec<u32> = std::iter::once(3 | 255 << 16).chain(1..16).collect();
    driver.ask(&mut guest, &all).unwrap();
    assert_eq!(in_force(&guest).group_hashes.len(), 16);
    let (add, del) = (4 | 1 << 16, 4);
    for vid in [0, 5, 7] {
        driver.ask(&mut guest, &[add, vid]).unwrap();
    }
    driver.ask(&mut guest, &[del, 5]).unwrap();
    driver.ask(&mut guest, &[del, 0]).unwrap();
    let vlans: Vec<u16> = in_force(&guest)
        .vlans
        .unwrap()
        .iter()
        .map(|v| v.get())
        .collect();
    assert_eq!(vlans, [7]);
    assert!(driver.ask(&mut guest, &[add, 4095]).is_err());
    guest.administer("vf 0 vlan 9");
    let no = driver.ask(&mut guest, &[add, 11]);
    assert_eq!(no, Err(DriverError::Refused(add | NO)));
}

#[test]
fn the_length_of_frames_is_an_mtu_and_their_framing() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    let vf = guest.nic.vf;
    driver.ask(&mut guest, &[5, 1518]).unwrap();
    assert_eq!(guest.nic.policy.agreed_mtu(vf).unwrap().get(), 1500);
    guest.administer("vf 0 mtu 2000");
    for (length, yes) in [
        (2018, true),
        (2019, false),
        (86, true),
        (85, false),
        (0, false),
        (u32::MAX, false),
    ] {
        assert_eq!(
            driver.ask(&mut guest, &[5, length]).is_ok(),
            yes,
            "{length}"
        );
    }
}

#[test]
fn the_hash_is_shown_if_the_administrator_shows_it() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    for word in [0xa, 0xb] {
        let no = driver.ask(&mut guest, &[word]);
        assert_eq!(no, Err(DriverError::Refused(word | NO)));
    }
    guest.administer("vf 0 query_rss on");
    let table = driver.ask(&mut guest, &[0xa]).unwrap();
    assert_eq!(table[1..9], [0x4444_4444; 8], "evenly over two queues");
    let key = driver.ask(&mut guest, &[0xb]).unwrap();
    assert_eq!(key[1], u32::from_le_bytes([0x6d, 0x5a, 0x56, 0xda]));
    assert_eq!(key[10], u32::from_le_bytes([0xbe, 0xac, 0x01, 0xfa]));
}

#[test]
fn a_change_of_the_link_is_told_once_and_not_over_an_answer() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    guest.interrupted();
    guest.write(reg::VTEIMS, 3);
    assert_eq!(driver.news(&mut guest), None);
    guest.administer("link set down");
    assert!(guest.interrupted()[1]);
    assert_eq!(guest.read(reg::VFLINKS) >> 30, 0);
    assert_eq!(driver.news(&mut guest), Some(0x100 | CLEAR_TO_SEND));
    guest.write(reg::VTEIMS, 3);
    guest.administer("link set down");
    guest.administer("vf 1 trust on");
    assert_eq!(
        (driver.news(&mut guest), guest.interrupted()),
        (None, [false; 3])
    );
    // While the VF writes a message, and until it has read the answer.
    guest.write(reg::VFMAILBOX, 4);
    guest.write(reg::VFMBMEM, 9);
    guest.administer("link set up");
    assert!(guest.interrupted()[1]);
    guest.write(reg::VTEIMS, 3);
    assert_eq!(guest.read(reg::VFMBMEM), 9);
    guest.write(reg::VFMAILBOX, 1);
    assert_eq!(guest.read(reg::VFMBMEM), 9 | YES);
    guest.write(reg::VFMAILBOX, 2);
    assert_eq!(driver.news(&mut guest), Some(0x100 | CLEAR_TO_SEND));
    assert_eq!(driver.news(&mut guest), None);
}

#[test]
fn what_the_administrator_resets_starts_anew() {
    let (mut guest, mut driver) = started(0, Profile::Generic);
    for words in ["vf 0 reset", "vf 0 state disable", "vf 0 state auto"] {
        guest.administer(words);
        assert_eq!(driver.news(&mut guest), Some(0x100), "not clear to send");
        assert_eq!(
            driver.news(&mut guest),
            Some(FAILURE),
            "it should not have read"
        );
        let no = driver.ask(&mut guest, &[9]);
        assert_eq!(no, Err(DriverError::Refused(9 | FAILURE)));
        driver.reset(&mut guest).unwrap();
        driver.open(&mut guest).unwrap();
        let state = driver.ask(&mut guest, &[0x10]).unwrap()[1];
        assert_eq!(state, u32::from(words != "vf 0 state disable"));
    }
}

#[test]
fn bits_of_the_mailbox_are_who_has_it_and_what_was_done() {
    let mut guest = Guest::new(0);
    assert_eq!(guest.read(reg::VFMAILBOX), 0x80, "the reset is done");
    assert_eq!(guest.read(reg::VFMAILBOX), 0, "and that is read once");
    guest.write(reg::VFMAILBOX, 4);
    assert_eq!(guest.read(reg::VFMAILBOX), 4);
    guest.write(reg::VFMBMEM, 1);
    guest.write(reg::VFMAILBOX, 1);
    assert_eq!(guest.read(reg::VFMAILBOX), 0x30);
    assert_eq!(guest.read(reg::VFMBMEM), 1 | SUCCESS);
    // An answer is no question.
    guest.write(reg::VFMAILBOX, 2);
    guest.write(reg::VFMAILBOX, 1);
    assert_eq!(guest.read(reg::VFMAILBOX), 0x20);
    // The PF never holds the buffer, and nobody else says that it does.
    guest.write(reg::VFMAILBOX, 0xf8);
    assert_eq!(guest.read(reg::VFMAILBOX), 0);
    for at in (0..64).step_by(4) {
        guest.write(reg::VFMBMEM + at, at as u32);
    }
    assert_eq!(guest.read(reg::VFMBMEM + 60), 60);
}
