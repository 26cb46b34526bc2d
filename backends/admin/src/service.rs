//! The calls, in version 4's messages. Both versions answer by way of this; see [`Version`].

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fairway_desired::Family;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::lookup::{Kind, Lookup};
use crate::messages::{self, Version};
use crate::model::{Direction, Path, Reset, Statement, Table};
use crate::proto::api::{self, table_lookup_prefix};
use crate::source::{Config, Job, Neighbors, Routes, Source, Wish, reset};
use crate::{own, v3, v4};

/// Requests are small; this bounds what a prefix filter can cost.
const MAX_REQUEST: usize = 64 * 1024;
/// Most prefixes of one filter: each is compared with each route.
const MAX_LOOKUPS: usize = 256;
/// Most tables held for slow readers at one time.
const MAX_TABLES: usize = 16;
/// A client that is gone holds its answer no longer than two of these.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Longest wait for the speaker.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The server failed as a whole.
#[derive(Debug, Error)]
#[error("the gRPC server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Answers on a listener until dropped. Connections that are open then are told that the service is unavailable.
///
/// # Errors
/// If the listener fails for good.
pub async fn serve(listener: TcpListener, jobs: mpsc::Sender<Job>) -> Result<(), ServeError> {
    // Connections have tasks of their own, which outlive this future; what they can reach does not.
    let jobs = Arc::new(jobs);
    let admin = Admin { jobs: Arc::downgrade(&jobs), tables: Arc::new(Semaphore::new(MAX_TABLES)) };
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(32)
        .timeout(TIMEOUT)
        .add_service(v3::server(admin.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(v4::server(admin.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(own::server(admin.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(own::node_server(admin).max_decoding_message_size(MAX_REQUEST))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    drop(jobs);
    Ok(())
}

/// Why a request is not answered.
#[derive(Debug, Error)]
pub(crate) enum Refusal {
    #[error("the speaker is gone")]
    Gone,
    #[error("too many tables are being read")]
    Busy,
    #[error("neighbor that has {0} doesn't exist")]
    Neighbor(String),
    #[error("{0:?} is no address")]
    Address(String),
    #[error("no route to {0}")]
    Unknown(String),
    #[error("neighbor {0} doesn't have local rib")]
    LocalRib(String),
    #[error("address family is not supported")]
    Family,
    #[error("table type is not supported")]
    Table,
    #[error("invalid prefix {0:?}")]
    Prefix(String),
    #[error("more than {MAX_LOOKUPS} prefixes")]
    Prefixes,
    #[error("invalid direction")]
    Direction,
    #[error("only the table \"global\" has policies")]
    Assignment,
    #[error("binary attributes are not served")]
    Binary,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Gone => Status::unavailable(text),
            Refusal::Busy => Status::resource_exhausted(text),
            Refusal::Neighbor(_) | Refusal::Unknown(_) | Refusal::Assignment => Status::not_found(text),
            Refusal::LocalRib(_) => Status::failed_precondition(text),
            Refusal::Address(_)
            | Refusal::Family
            | Refusal::Table
            | Refusal::Prefix(_)
            | Refusal::Prefixes
            | Refusal::Direction => Status::invalid_argument(text),
            Refusal::Binary => Status::unimplemented(text),
        }
    }
}

/// An answer in pieces, made as the client reads.
pub(crate) type Pieces<T> = tokio_stream::Iter<Box<dyn Iterator<Item = Result<T, Status>> + Send>>;

/// Each of these is a piece.
pub(crate) fn pieces<T: 'static>(items: impl Iterator<Item = T> + Send + 'static) -> Pieces<T> {
    let items: Box<dyn Iterator<Item = Result<T, Status>> + Send> = Box::new(items.map(Ok));
    tokio_stream::iter(items)
}

/// The calls.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    jobs: Weak<mpsc::Sender<Job>>,
    tables: Arc<Semaphore>,
}

impl Admin {
    /// To be held as long as the copy of a table.
    pub(crate) fn permit(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.tables.clone().try_acquire_owned().map_err(|_| Refusal::Busy)
    }

    /// Runs something on the speaker.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Source) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |source| {
            // Nobody waits any more: nothing to copy. Otherwise it can only go away meanwhile.
            if !answer.is_closed() {
                drop(answer.send(question(source)));
            }
        });
        let jobs = self.jobs.upgrade().ok_or(Refusal::Gone)?;
        jobs.send(job).await.map_err(|_| Refusal::Gone)?;
        drop(jobs);
        answered.await.map_err(|_| Refusal::Gone)
    }

    async fn config(&self) -> Result<Config, Refusal> {
        self.ask(|source| Config::take(source)).await
    }

    pub(crate) async fn global(&self) -> Result<api::GetBgpResponse, Refusal> {
        Ok(api::GetBgpResponse { global: Some(messages::global(&self.config().await?.global())) })
    }

    pub(crate) async fn peers(
        &self,
        version: Version,
        request: api::ListPeerRequest,
    ) -> Result<impl Iterator<Item = api::Peer> + Send + use<>, Refusal> {
        // An address may also be an interface's name; there are no such neighbours.
        let only = (!request.address.is_empty()).then(|| request.address.parse::<IpAddr>());
        let neighbors = match only {
            Some(Err(_)) => None,
            Some(Ok(address)) => Some(self.ask(move |source| Neighbors::take(source, Some(address))).await?),
            None => Some(self.ask(|source| Neighbors::take(source, None)).await?),
        };
        Ok(neighbors.into_iter().flat_map(Neighbors::into_model).map(move |neighbor| messages::peer(version, neighbor)))
    }

    pub(crate) async fn reset(&self, version: Version, request: api::ResetPeerRequest) -> Result<(), Refusal> {
        use api::reset_peer_request::Direction;
        let what = match version.read(request.direction) {
            _ if !request.soft => Reset::Hard,
            Some(Direction::In) => Reset::SoftIn,
            Some(Direction::Out) => Reset::SoftOut,
            Some(Direction::Both) => Reset::SoftBoth,
            _ => return Err(Refusal::Direction),
        };
        self.reset_peer(request.address, Wish::Reset(what), request.communication).await
    }

    /// GoBGP's shutdown ends the session and lets it come back, as a reset does; `disable` is what lasts.
    pub(crate) async fn shutdown(&self, request: api::ShutdownPeerRequest) -> Result<(), Refusal> {
        self.reset_peer(request.address, Wish::Reset(Reset::Hard), request.communication).await
    }

    pub(crate) async fn enable(&self, request: api::EnablePeerRequest) -> Result<(), Refusal> {
        self.reset_peer(request.address, Wish::Enable(true), String::new()).await
    }

    pub(crate) async fn disable(&self, request: api::DisablePeerRequest) -> Result<(), Refusal> {
        self.reset_peer(request.address, Wish::Enable(false), request.communication).await
    }

    async fn reset_peer(&self, address: String, wish: Wish, message: String) -> Result<(), Refusal> {
        let only = match address.as_str() {
            "" | "all" => None,
            _ => Some(address.parse::<IpAddr>().map_err(|_| Refusal::Neighbor(address.clone()))?),
        };
        let found = self.ask(move |source| reset(source, only, wish, &message)).await?;
        if found { Ok(()) } else { Err(Refusal::Neighbor(address)) }
    }

    /// Copies a table; the permit is to be held as long as the copy.
    async fn routes(
        &self,
        version: Version,
        table: i32,
        name: &str,
        family: Option<api::Family>,
    ) -> Result<(Routes, OwnedSemaphorePermit), Refusal> {
        let peer = || IpAddr::from_str(name).map_err(|_| Refusal::Neighbor(name.to_owned()));
        let table = match version.read(table) {
            Some(api::TableType::Global | api::TableType::Local) if name.is_empty() => Table::Global,
            // There are no route server clients, which alone have a table of their own.
            Some(api::TableType::Global | api::TableType::Local) => return Err(Refusal::LocalRib(name.to_owned())),
            Some(api::TableType::AdjIn) => Table::AdjIn(peer()?),
            Some(api::TableType::AdjOut) => Table::AdjOut(peer()?),
            _ => return Err(Refusal::Table),
        };
        let family = match (family, table) {
            (Some(family), _) => messages::read_family(&family).ok_or(Refusal::Family)?,
            (None, Table::AdjIn(peer) | Table::AdjOut(peer)) => Family::of(peer),
            (None, Table::Global) => return Err(Refusal::Family),
        };
        let permit = self.permit()?;
        let routes = self.ask(move |source| Routes::take(source, table, family)).await?;
        Ok((routes.ok_or_else(|| Refusal::Neighbor(name.to_owned()))?, permit))
    }

    pub(crate) async fn paths(
        &self,
        version: Version,
        request: api::ListPathRequest,
    ) -> Result<impl Iterator<Item = api::Destination> + Send + use<>, Refusal> {
        if request.enable_only_binary {
            return Err(Refusal::Binary);
        }
        if request.prefixes.len() > MAX_LOOKUPS {
            return Err(Refusal::Prefixes);
        }
        let mut lookup = Lookup::default();
        for prefix in request.prefixes {
            let kind = match version.read(prefix.r#type) {
                Some(table_lookup_prefix::Type::Longer) => Kind::Longer,
                Some(table_lookup_prefix::Type::Shorter) => Kind::Shorter,
                _ => Kind::Exact,
            };
            if !lookup.add(&prefix.prefix, kind) {
                return Err(Refusal::Prefix(prefix.prefix));
            }
        }
        let (routes, permit) = self.routes(version, request.table_type, &request.name, request.family).await?;
        lookup.resolve(routes.prefixes());
        let mut paths = routes.into_model().filter(move |path| lookup.wants(&path.prefix)).peekable();
        Ok(std::iter::from_fn(move || {
            let _held = &permit;
            let first = paths.next()?;
            let prefix = first.prefix;
            let rest = std::iter::from_fn(|| paths.next_if(|path: &Path| path.prefix == prefix));
            let paths = std::iter::once(first).chain(rest).map(messages::path).collect();
            Some(api::Destination { prefix: prefix.to_string(), paths })
        }))
    }

    pub(crate) async fn table(
        &self,
        version: Version,
        request: api::GetTableRequest,
    ) -> Result<api::GetTableResponse, Refusal> {
        let (routes, _permit) = self.routes(version, request.table_type, &request.name, request.family).await?;
        let counts = routes.counts();
        Ok(api::GetTableResponse {
            num_destination: counts.destinations,
            num_path: counts.paths,
            num_accepted: counts.accepted,
        })
    }

    pub(crate) async fn policies(
        &self,
        version: Version,
        request: api::ListPolicyRequest,
    ) -> Result<Pieces<api::ListPolicyResponse>, Refusal> {
        let policies = self.config().await?.policies().into_iter();
        let wanted = policies.filter(move |policy| request.name.is_empty() || policy.name == request.name);
        Ok(pieces(
            wanted.map(move |policy| api::ListPolicyResponse { policy: Some(messages::policy(version, &policy)) }),
        ))
    }

    pub(crate) async fn statements(
        &self,
        version: Version,
        request: api::ListStatementRequest,
    ) -> Result<Pieces<api::ListStatementResponse>, Refusal> {
        let statements = self.config().await?.policies().into_iter().flat_map(|policy| policy.statements);
        let wanted = statements.filter(move |s: &Statement| request.name.is_empty() || s.name == request.name);
        Ok(pieces(wanted.map(move |statement| api::ListStatementResponse {
            statement: Some(messages::statement(version, &statement)),
        })))
    }

    pub(crate) async fn defined_sets(
        &self,
        version: Version,
        request: api::ListDefinedSetRequest,
    ) -> Result<Pieces<api::ListDefinedSetResponse>, Refusal> {
        let sets = self.config().await?.defined_sets().into_iter();
        let sets = sets.filter(move |set| request.name.is_empty() || set.name == request.name);
        let sets = sets.map(move |set| messages::defined_set(version, set));
        let sets = sets.filter(move |set| set.defined_type == request.defined_type);
        Ok(pieces(sets.map(|set| api::ListDefinedSetResponse { defined_set: Some(set) })))
    }

    pub(crate) async fn assignments(
        &self,
        version: Version,
        request: api::ListPolicyAssignmentRequest,
    ) -> Result<Pieces<api::ListPolicyAssignmentResponse>, Refusal> {
        if !matches!(request.name.as_str(), "" | "global") {
            return Err(Refusal::Assignment);
        }
        let directions = match api::PolicyDirection::try_from(request.direction) {
            Ok(api::PolicyDirection::Unspecified) => vec![Direction::Export, Direction::Import],
            Ok(api::PolicyDirection::Export) => vec![Direction::Export],
            Ok(api::PolicyDirection::Import) => vec![Direction::Import],
            Err(_) => return Err(Refusal::Direction),
        };
        let policies = self.config().await?.policies();
        Ok(pieces(directions.into_iter().map(move |direction| {
            let policy = policies.iter().find(|policy| policy.direction == direction);
            api::ListPolicyAssignmentResponse { assignment: Some(messages::assignment(version, direction, policy)) }
        })))
    }
}
