//! Messages are read back as they were written, and a real kernel understands them.

use fairway_netlink::{Attributes, Error, Message, Protocol, Socket, generic_family};
use proptest::prelude::*;

/// `RTM_GETLINK`, `RTM_NEWLINK`, `RTM_DELADDR`
const GET_LINK: u16 = 18;
const NEW_LINK: u16 = 16;
const DELETE_ADDRESS: u16 = 21;
/// `IFLA_IFNAME`
const NAME: u16 = 3;

#[test]
fn the_kernel_lists_the_loopback_interface() {
    let mut socket = Socket::open(Protocol::Route).expect("a netlink socket");
    let mut request = Message::new(GET_LINK, 0);
    request.raw(&[0; 16]);
    let mut names: Vec<String> = vec![];
    socket
        .dump(&request, &mut names, Vec::clear, |names, kind, payload| {
            assert_eq!(kind, NEW_LINK);
            let name = Attributes::new(&payload[16..]).get(NAME).and_then(|name| name.text().map(String::from));
            names.extend(name);
        })
        .expect("a dump");
    assert!(names.contains(&"lo".to_string()), "{names:?}");
}

#[test]
fn each_of_many_requests_has_its_own_result() {
    let mut socket = Socket::open(Protocol::Route).expect("a netlink socket");
    // Reading lo works; deleting an address of an interface that does not exist fails, whoever asks.
    let request = |n: usize| {
        if n % 3 == 1 {
            let mut message = Message::new(DELETE_ADDRESS, 0);
            message.raw(&[2, 32, 0, 0, 0xff, 0xff, 0xff, 0x7f]);
            message
        } else {
            let mut message = Message::new(GET_LINK, 0);
            message.raw(&[0; 4]).raw(&1u32.to_ne_bytes()).raw(&[0; 8]);
            message
        }
    };
    let results = socket.requests((0..1000).map(request).collect()).expect("results");
    assert_eq!(results.len(), 1000);
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), n % 3 == 1, "{n}: {result:?}");
    }
}

#[test]
fn families_are_found_by_name() {
    let mut socket = Socket::open(Protocol::Generic).expect("a netlink socket");
    assert_eq!(generic_family(&mut socket, "nlctrl").expect("an answer"), Some(16));
    assert_eq!(generic_family(&mut socket, "no-such-family").expect("an answer"), None);
}

#[test]
fn an_attribute_that_does_not_fit_is_refused_without_asking_the_kernel() {
    let mut socket = Socket::open(Protocol::Generic).expect("a netlink socket");
    let mut message = Message::new(16, 0);
    message.nested(1, |m| {
        m.bytes(2, &[0; 40_000]).bytes(3, &[0; 40_000]);
    });
    assert!(matches!(socket.request(message), Err(Error::Errno(errno)) if errno.0 == 90));
}

proptest! {
    #[test]
    fn what_was_written_is_read(values in prop::collection::vec((1u16..0x3fff, prop::collection::vec(any::<u8>(), 0..40)), 0..20)) {
        let mut message = Message::new(1, 0);
        message.nested(7, |m| {
            for (kind, bytes) in &values {
                m.bytes(*kind, bytes);
            }
        });
        let outer: Vec<_> = Attributes::new(message.payload()).collect();
        prop_assert_eq!(outer.len(), 1);
        let read: Vec<_> = outer[0].nested().map(|a| (a.kind, a.payload.to_vec())).collect();
        prop_assert_eq!((outer[0].kind, read), (7, values));
    }

    #[test]
    fn nothing_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for attribute in Attributes::new(&bytes) {
            let _ = (attribute.u8(), attribute.be64(), attribute.text());
            for inner in attribute.nested() {
                let _ = inner.u32();
            }
        }
    }
}
