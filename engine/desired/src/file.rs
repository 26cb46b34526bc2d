use alloc::sync::Arc;
use alloc::vec::Vec;

use ipnet::IpNet;

use crate::{Plane, PlaneId};

/// The CNI configuration of this node. Key: absolute path of the file; one that ends in `.conflist` is a list of
/// plugins, any other is one plugin. Value: what in it is ours; the rest is its operator's and stays.
///
/// Never deleted: pods could neither be made nor be taken away without it. A file that cannot be brought to the value is
/// refused with one of the errnos of [`file_errno`].
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File;

impl Plane for File {
    const ID: PlaneId = PlaneId::File;
    const SWEEP: bool = false;
    type Key = Arc<str>;
    type Value = FileValue;
}

/// What in a CNI configuration is ours: two settings of the plugin of type `bridge`.
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileValue {
    /// `ipam.ranges`: the prefixes from which pods get an address each, in this order, host bits cleared.
    pub ranges: Vec<IpNet>,
    /// `mtu`, octets; `None`: left as it is.
    pub mtu: Option<u32>,
}

/// What an errno says of a configuration file.
pub mod file_errno {
    /// `ENOENT`: its folder is not there.
    pub const NO_FOLDER: i32 = 2;
    /// `EEXIST`: it is not there, and its folder has other configurations, which it would push aside.
    pub const OTHERS: i32 = 17;
    /// `EBUSY`: it is a mount of its own, so it cannot be replaced.
    pub const MOUNT: i32 = 16;
    /// `ENODEV`: it has no plugin of type `bridge`.
    pub const NO_BRIDGE: i32 = 19;
    /// `EROFS`
    pub const READ_ONLY: i32 = 30;
    /// `EBADMSG`: it is no JSON of the expected form.
    pub const NOT_CNI: i32 = 74;
    /// `EPROTONOSUPPORT`: addresses are given by another plugin than `host-local`.
    pub const OTHER_IPAM: i32 = 93;
}
