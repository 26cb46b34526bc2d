//! What real daemons say: bytes captured from gobgpd and BIRD, what our decoder makes of them, and the way back.
//!
//! `tests/vectors/README.md` says how they were made and how to make them again.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[path = "common/capture.rs"]
#[allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "it talks to real daemons")]
mod capture;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use fairway_bgp::wire::{
    Attributes, Capability, Context, Message, Nlri, Notification, Open, Origin, Reach, RouteRefresh, Update, code,
};
use fairway_desired::Family;
use fairway_desired::bgp::Families;

/// One session as it was recorded.
pub(crate) struct Recording {
    /// What was negotiated for what the daemon says.
    pub(crate) context: Context,
    /// Each with what made the daemon say it, if that is known.
    pub(crate) messages: Vec<(String, Vec<u8>)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

const FLAGS: [&str; 5] = ["four-octet-as", "extended-messages", "add-path-v4", "add-path-v6", "external"];

fn print_context(c: Context) -> String {
    let on = [c.four_octet_as, c.extended_messages, c.add_path.v4, c.add_path.v6, c.external];
    let on: Vec<&str> = FLAGS.into_iter().zip(on).filter(|(_, on)| *on).map(|(name, _)| name).collect();
    on.join(" ")
}

fn parse_context(text: &str) -> Context {
    let has = |name| text.split(' ').any(|flag| flag == name);
    assert!(text.split(' ').all(|flag| flag.is_empty() || FLAGS.contains(&flag)), "{text}");
    Context {
        four_octet_as: has(FLAGS[0]),
        extended_messages: has(FLAGS[1]),
        add_path: Families { v4: has(FLAGS[2]), v6: has(FLAGS[3]) },
        external: has(FLAGS[4]),
    }
}

fn prefixes(list: &[Nlri]) -> String {
    let text = |n: &Nlri| match n.path_id {
        0 => n.prefix.to_string(),
        id => format!("{} (path {id})", n.prefix),
    };
    list.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// A capability in words.
fn capability(c: &Capability) -> String {
    let family = |afi: u16, safi: u16| format!("{afi}/{safi}");
    match c {
        Capability::Multiprotocol { afi, safi } => format!("multiprotocol {}", family(*afi, (*safi).into())),
        Capability::RouteRefresh => "route refresh".into(),
        Capability::ExtendedNextHop(list) => {
            let each = list.iter().map(|(afi, safi, hop)| format!("{} over {hop}", family(*afi, *safi)));
            format!("extended next hop {}", each.collect::<Vec<_>>().join(", "))
        }
        Capability::ExtendedMessage => "extended message".into(),
        Capability::GracefulRestart { restarted, notification, time_s, families } => {
            let each = families.iter().map(|f| {
                let forwarding = if f.forwarding { " forwarding" } else { "" };
                format!(", {}{forwarding}", family(f.afi, f.safi.into()))
            });
            let (r, n) = (if *restarted { " R" } else { "" }, if *notification { " N" } else { "" });
            format!("graceful restart{r}{n} {time_s} s{}", each.collect::<String>())
        }
        Capability::FourOctetAs(asn) => format!("four-octet AS {asn}"),
        Capability::AddPath(list) => {
            let mode = |m: u8| ["?", "receive", "send", "both"].get(usize::from(m)).copied().unwrap_or("?");
            let each = list.iter().map(|(afi, safi, m)| format!("{} {}", family(*afi, (*safi).into()), mode(*m)));
            format!("ADD-PATH {}", each.collect::<Vec<_>>().join(", "))
        }
        Capability::EnhancedRefresh => "enhanced route refresh".into(),
        Capability::LongLived(list) => {
            let each = list.iter().map(|f| {
                let forwarding = if f.forwarding { " forwarding" } else { "" };
                format!("{} {} s{forwarding}", family(f.afi, f.safi.into()), f.time_s)
            });
            format!("long-lived graceful restart {}", each.collect::<Vec<_>>().join(", "))
        }
        Capability::Unknown { code, value } => format!("capability {code} {}", hex(value)),
    }
}

fn attributes(a: &Attributes, out: &mut Vec<String>) {
    let origin = match a.origin {
        Origin::Igp => "IGP",
        Origin::Egp => "EGP",
        Origin::Incomplete => "incomplete",
    };
    out.push(format!("origin {origin}"));
    let segment = |s: &fairway_bgp::wire::Segment| {
        let asns = s.asns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if s.set { format!("{{{asns}}}") } else { asns }
    };
    out.push(format!("path [{}]", a.as_path.segments.iter().map(segment).collect::<Vec<_>>().join(" ")));
    out.extend(a.med.map(|m| format!("MED {m}")));
    out.extend(a.local_pref.map(|p| format!("local preference {p}")));
    if a.atomic_aggregate {
        out.push("atomic aggregate".into());
    }
    out.extend(a.aggregator.map(|(asn, id)| format!("aggregator {asn} {id}")));
    if !a.communities.is_empty() {
        let each = a.communities.iter().map(|c| format!(" {}:{}", c >> 16, c & 0xffff));
        out.push(format!("communities{}", each.collect::<String>()));
    }
    if !a.large_communities.is_empty() {
        let each = a.large_communities.iter().map(|[x, y, z]| format!(" {x}:{y}:{z}"));
        out.push(format!("large communities{}", each.collect::<String>()));
    }
    if !a.ext_communities.is_empty() {
        let each = a.ext_communities.iter().map(|c| format!(" {}", hex(c)));
        out.push(format!("extended communities{}", each.collect::<String>()));
    }
    out.extend(a.originator.map(|id| format!("originator {id}")));
    if !a.cluster_list.is_empty() {
        out.push(format!("clusters {:?}", a.cluster_list));
    }
    out.extend(a.unknown.iter().map(|u| format!("attribute {} {}", u.code, hex(&u.value))));
}

/// A message in words, a line each.
fn describe(message: &Message) -> Vec<String> {
    let mut out = vec![];
    match message {
        Message::Open(open) => {
            let Open { asn2, hold_s, router_id, capabilities } = open;
            out.push(format!("OPEN AS {} ({asn2}) hold {hold_s} s identifier {router_id}", open.asn()));
            out.extend(capabilities.iter().map(capability));
        }
        Message::Update(update) => {
            out.push(match update.is_end_of_rib() {
                Some(Family::V4) => "UPDATE, End-of-RIB of IPv4".into(),
                Some(Family::V6) => "UPDATE, End-of-RIB of IPv6".into(),
                None => "UPDATE".to_string(),
            });
            let Update { withdrawn, reach, mp_reach, mp_unreach, malformed, discarded, foreign, .. } = update;
            if !withdrawn.is_empty() {
                out.push(format!("withdraws {}", prefixes(withdrawn)));
            }
            if let Some((_, list)) = mp_unreach.as_ref().filter(|(_, list)| !list.is_empty()) {
                out.push(format!("withdraws {} (MP)", prefixes(list)));
            }
            let announced = |Reach { next_hop, prefixes: list }: &Reach, mp: &str| {
                format!("announces {} by {next_hop}{mp}", prefixes(list))
            };
            out.extend(reach.as_ref().map(|r| announced(r, "")));
            out.extend(mp_reach.as_ref().map(|(_, r)| announced(r, " (MP)")));
            if let Some(a) = &update.attributes {
                attributes(a, &mut out);
            }
            out.extend(malformed.as_ref().map(|m| format!("malformed: {m}")));
            out.extend(discarded.iter().map(|code| format!("discarded attribute {code}")));
            if *foreign {
                out.push("another family".into());
            }
        }
        Message::Notification(n) => {
            out.push(format!("NOTIFICATION {n}"));
            let Notification { code: kind, data, .. } = n;
            if !data.is_empty() && (*kind != code::CEASE || n.message().is_none()) {
                out.push(format!("data {}", hex(data)));
            }
        }
        Message::Keepalive => out.push("KEEPALIVE".into()),
        Message::RouteRefresh(RouteRefresh { afi, subtype, safi }) => {
            out.push(format!("ROUTE-REFRESH {afi}/{safi} subtype {subtype}"));
        }
    }
    out
}

/// The file of a recording: what was negotiated, then for each message why it came, its bytes, and what they mean.
/// `=` in front of the bytes: we would write the same.
fn print(title: &str, recording: &Recording) -> String {
    let mut out = format!("{title}\nnegotiated: {}\n", print_context(recording.context));
    for (why, bytes) in &recording.messages {
        let (message, len) = Message::decode(bytes, recording.context).unwrap().unwrap();
        assert_eq!(len, bytes.len());
        let same = message.encode(recording.context).as_ref() == Ok(bytes);
        let _ = write!(out, "\n# {why}\n{} {}\n", if same { "=" } else { "~" }, hex(bytes));
        for line in describe(&message) {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// Reads such a file back as far as its bytes go.
fn parse(text: &str) -> (String, Recording) {
    let mut lines = text.lines();
    let title = lines.next().unwrap().to_string();
    let context = parse_context(lines.next().unwrap().strip_prefix("negotiated: ").unwrap());
    let mut messages = vec![];
    let mut why = String::new();
    for line in lines {
        if let Some(text) = line.strip_prefix("# ") {
            why = text.into();
        } else if let Some(bytes) = line.strip_prefix("= ").or_else(|| line.strip_prefix("~ ")) {
            messages.push((std::mem::take(&mut why), unhex(bytes)));
        }
    }
    (title, Recording { context, messages })
}

#[test]
fn what_daemons_say_means_what_is_written_beside_it() {
    let mut files: Vec<PathBuf> = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    let mut same = 0;
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let (title, recording) = parse(&text);
        assert_eq!(print(&title, &recording), text, "{}", file.display());
        for (why, bytes) in &recording.messages {
            let message = Message::decode(bytes, recording.context).unwrap().unwrap().0;
            // Not every byte that others write is as we would write it, but it means the same.
            let Ok(ours) = message.encode(recording.context) else { panic!("{why}") };
            same += usize::from(ours == *bytes);
            let whole = !matches!(&message, Message::Update(u) if u.malformed.is_some() || u.foreign);
            if whole {
                assert_eq!(Message::decode(&ours, recording.context).unwrap().unwrap().0, message, "{why}");
            }
        }
    }
    assert!(same > 60, "only {same} messages are as we would write them");
}

/// Makes the vectors again, from the daemons of this machine. Run it by name; it needs root, gobgpd and bird.
#[test]
#[ignore = "makes the files of tests/vectors again"]
fn capture_again() {
    if !capture::enter("capture_again") {
        return;
    }
    for (name, title, record) in capture::wanted() {
        fs::write(folder().join(format!("{name}.txt")), print(title, &record())).unwrap();
        println!("{name}");
    }
}
