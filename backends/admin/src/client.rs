//! The other end of `fairway.v1`, for a command line: it blocks.

use std::net::IpAddr;

use ipnet::IpNet;
use tokio::runtime::Runtime;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::proto::own::bgp_client::BgpClient;
use crate::proto::own::node_client::NodeClient;
pub use crate::proto::own::{
    Advertisement, Allocation, Bfd, Event, ExplainedPath, Explanation, FamilyCounts, LoadBalancer, Neighbor, Notice,
    Parked, Path, Plane, Status, Watch, list_paths_request::Table,
};
use crate::proto::own::{ExplainRequest, GetStatusRequest, ListEventsRequest, ListNeighborsRequest, ListPathsRequest};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or it is no daemon of ours.
    #[error("no daemon answers at {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// Why, in the words of the system.
        reason: String,
    },
    /// It answered that it will not.
    #[error("{0}")]
    Refused(String),
    /// The client itself.
    #[error("{0}")]
    Runtime(#[from] std::io::Error),
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        ClientError::Refused(match status.code() {
            tonic::Code::Unimplemented => "what answers there is a gobgpd, not fairway".into(),
            _ => status.message().to_string(),
        })
    }
}

/// A connection to a daemon's admin port.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    calls: BgpClient<Channel>,
    node: NodeClient<Channel>,
}

impl Client {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    /// [`ClientError::Connect`]
    pub fn connect(address: &str) -> Result<Client, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let refused = |error: tonic::transport::Error| {
            // The outer errors only say that it failed.
            let mut reason: &dyn std::error::Error = &error;
            while let Some(inner) = reason.source() {
                reason = inner;
            }
            ClientError::Connect { address: address.into(), reason: reason.to_string() }
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(refused)?;
        let channel = runtime.block_on(endpoint.connect()).map_err(refused)?;
        Ok(Client { runtime, calls: BgpClient::new(channel.clone()), node: NodeClient::new(channel) })
    }

    /// The node as a whole.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: the daemon ends.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        Ok(self.runtime.block_on(self.node.get_status(GetStatusRequest {}))?.into_inner())
    }

    /// All neighbours, or one.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: there is no such neighbour, or the daemon ends.
    pub fn neighbors(&mut self, only: Option<IpAddr>) -> Result<Vec<Neighbor>, ClientError> {
        let address = only.map(|a| a.to_string()).unwrap_or_default();
        let call = self.calls.list_neighbors(ListNeighborsRequest { address });
        let stream = self.runtime.block_on(call)?.into_inner();
        self.messages(stream).collect()
    }

    /// The paths of a table, as they arrive.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: there is no such neighbour, or the prefix is none.
    pub fn paths(
        &mut self,
        table: Table,
        neighbor: Option<IpAddr>,
        ipv6: bool,
        prefix: &str,
    ) -> Result<impl Iterator<Item = Result<Path, ClientError>> + '_, ClientError> {
        let neighbor = neighbor.map(|a| a.to_string()).unwrap_or_default();
        let request = ListPathsRequest { table: table.into(), neighbor, ipv6, prefix: prefix.into() };
        let stream = self.runtime.block_on(self.calls.list_paths(request))?.into_inner();
        Ok(self.messages(stream))
    }

    /// Why the routes of a prefix are what they are; of an address, those of the longest prefix that has it.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: there is no route to it.
    pub fn explain(&mut self, prefix: &str) -> Result<Explanation, ClientError> {
        let call = self.calls.explain(ExplainRequest { prefix: prefix.into() });
        Ok(self.runtime.block_on(call)?.into_inner())
    }

    /// The last events; with `follow` also those to come, without end.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: the daemon ends.
    pub fn events(
        &mut self,
        follow: bool,
    ) -> Result<impl Iterator<Item = Result<Event, ClientError>> + '_, ClientError> {
        let stream = self.runtime.block_on(self.calls.list_events(ListEventsRequest { follow }))?.into_inner();
        Ok(self.messages(stream))
    }

    fn messages<'a, T: 'a>(&'a self, mut stream: Streaming<T>) -> impl Iterator<Item = Result<T, ClientError>> + 'a {
        std::iter::from_fn(move || self.runtime.block_on(stream.message()).map_err(ClientError::from).transpose())
    }
}

/// Whether a text is a prefix or an address.
pub fn is_destination(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok()
}
