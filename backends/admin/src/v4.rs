//! Version 4: `api.GoBgpService`.

use tonic::{Request, Response, Status};

use crate::messages::Version::V4;
use crate::proto::api::go_bgp_service_server::{GoBgpService, GoBgpServiceServer};
use crate::proto::api::*;
use crate::service::{Admin, Pieces, pieces};

/// The service.
pub(crate) fn server(admin: Admin) -> GoBgpServiceServer<Service> {
    GoBgpServiceServer::new(Service(admin))
}

#[derive(Debug)]
pub(crate) struct Service(Admin);

#[tonic::async_trait]
impl GoBgpService for Service {
    type ListPeerStream = Pieces<ListPeerResponse>;
    type ListPathStream = Pieces<ListPathResponse>;
    type ListPolicyStream = Pieces<ListPolicyResponse>;
    type ListDefinedSetStream = Pieces<ListDefinedSetResponse>;
    type ListStatementStream = Pieces<ListStatementResponse>;
    type ListPolicyAssignmentStream = Pieces<ListPolicyAssignmentResponse>;

    async fn get_bgp(&self, _: Request<GetBgpRequest>) -> Result<Response<GetBgpResponse>, Status> {
        Ok(Response::new(self.0.global().await?))
    }

    async fn list_peer(&self, r: Request<ListPeerRequest>) -> Result<Response<Self::ListPeerStream>, Status> {
        let peers = self.0.peers(V4, r.into_inner()).await?;
        Ok(Response::new(pieces(peers.map(|peer| ListPeerResponse { peer: Some(peer) }))))
    }

    async fn reset_peer(&self, r: Request<ResetPeerRequest>) -> Result<Response<ResetPeerResponse>, Status> {
        self.0.reset(V4, r.into_inner()).await?;
        Ok(Response::new(ResetPeerResponse {}))
    }

    async fn shutdown_peer(&self, r: Request<ShutdownPeerRequest>) -> Result<Response<ShutdownPeerResponse>, Status> {
        self.0.shutdown(r.into_inner()).await?;
        Ok(Response::new(ShutdownPeerResponse {}))
    }

    async fn enable_peer(&self, r: Request<EnablePeerRequest>) -> Result<Response<EnablePeerResponse>, Status> {
        self.0.enable(r.into_inner()).await?;
        Ok(Response::new(EnablePeerResponse {}))
    }

    async fn disable_peer(&self, r: Request<DisablePeerRequest>) -> Result<Response<DisablePeerResponse>, Status> {
        self.0.disable(r.into_inner()).await?;
        Ok(Response::new(DisablePeerResponse {}))
    }

    async fn list_path(&self, r: Request<ListPathRequest>) -> Result<Response<Self::ListPathStream>, Status> {
        let destinations = self.0.paths(V4, r.into_inner()).await?;
        Ok(Response::new(pieces(destinations.map(|d| ListPathResponse { destination: Some(d) }))))
    }

    async fn get_table(&self, r: Request<GetTableRequest>) -> Result<Response<GetTableResponse>, Status> {
        Ok(Response::new(self.0.table(V4, r.into_inner()).await?))
    }

    async fn list_policy(&self, r: Request<ListPolicyRequest>) -> Result<Response<Self::ListPolicyStream>, Status> {
        Ok(Response::new(self.0.policies(V4, r.into_inner()).await?))
    }

    async fn list_defined_set(
        &self,
        r: Request<ListDefinedSetRequest>,
    ) -> Result<Response<Self::ListDefinedSetStream>, Status> {
        Ok(Response::new(self.0.defined_sets(V4, r.into_inner()).await?))
    }

    async fn list_statement(
        &self,
        r: Request<ListStatementRequest>,
    ) -> Result<Response<Self::ListStatementStream>, Status> {
        Ok(Response::new(self.0.statements(V4, r.into_inner()).await?))
    }

    async fn list_policy_assignment(
        &self,
        r: Request<ListPolicyAssignmentRequest>,
    ) -> Result<Response<Self::ListPolicyAssignmentStream>, Status> {
        Ok(Response::new(self.0.assignments(V4, r.into_inner()).await?))
    }
}
