//! Version 3: `apipb.GobgpApi`. Where it wraps something in [`Any`], version 4 has a variant.

use prost::Message;
use prost_types::Any;
use tonic::{Request, Response, Status};

use crate::messages::Version::V3;
use crate::proto::api::attribute::Attr;
use crate::proto::api::capability::Cap;
use crate::proto::api::extended_community::Extcom;
use crate::proto::api::*;
use crate::proto::apipb;
use crate::proto::apipb::gobgp_api_server::{GobgpApi, GobgpApiServer};
use crate::service::{Admin, Pieces, pieces};

/// The service.
pub(crate) fn server(admin: Admin) -> GobgpApiServer<Service> {
    GobgpApiServer::new(Service(admin))
}

#[derive(Debug)]
pub(crate) struct Service(Admin);

#[tonic::async_trait]
impl GobgpApi for Service {
    type ListPeerStream = Pieces<apipb::ListPeerResponse>;
    type ListPathStream = Pieces<apipb::ListPathResponse>;
    type ListPolicyStream = Pieces<ListPolicyResponse>;
    type ListDefinedSetStream = Pieces<ListDefinedSetResponse>;
    type ListStatementStream = Pieces<ListStatementResponse>;
    type ListPolicyAssignmentStream = Pieces<ListPolicyAssignmentResponse>;

    async fn get_bgp(&self, _: Request<GetBgpRequest>) -> Result<Response<GetBgpResponse>, Status> {
        Ok(Response::new(self.0.global().await?))
    }

    async fn list_peer(&self, r: Request<ListPeerRequest>) -> Result<Response<Self::ListPeerStream>, Status> {
        let peers = self.0.peers(V3, r.into_inner()).await?;
        Ok(Response::new(pieces(peers.map(|p| apipb::ListPeerResponse { peer: Some(peer(p)) }))))
    }

    async fn reset_peer(&self, r: Request<ResetPeerRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.reset(V3, r.into_inner()).await?))
    }

    async fn shutdown_peer(&self, r: Request<ShutdownPeerRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.shutdown(r.into_inner()).await?))
    }

    async fn enable_peer(&self, r: Request<EnablePeerRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.enable(r.into_inner()).await?))
    }

    async fn disable_peer(&self, r: Request<DisablePeerRequest>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.disable(r.into_inner()).await?))
    }

    async fn list_path(&self, r: Request<ListPathRequest>) -> Result<Response<Self::ListPathStream>, Status> {
        let destinations = self.0.paths(V3, r.into_inner()).await?;
        Ok(Response::new(pieces(destinations.map(|d| {
            let paths = d.paths.into_iter().map(path).collect();
            apipb::ListPathResponse { destination: Some(apipb::Destination { prefix: d.prefix, paths }) }
        }))))
    }

    async fn get_table(&self, r: Request<GetTableRequest>) -> Result<Response<GetTableResponse>, Status> {
        Ok(Response::new(self.0.table(V3, r.into_inner()).await?))
    }

    async fn list_policy(&self, r: Request<ListPolicyRequest>) -> Result<Response<Self::ListPolicyStream>, Status> {
        Ok(Response::new(self.0.policies(V3, r.into_inner()).await?))
    }

    async fn list_defined_set(
        &self,
        r: Request<ListDefinedSetRequest>,
    ) -> Result<Response<Self::ListDefinedSetStream>, Status> {
        Ok(Response::new(self.0.defined_sets(V3, r.into_inner()).await?))
    }

    async fn list_statement(
        &self,
        r: Request<ListStatementRequest>,
    ) -> Result<Response<Self::ListStatementStream>, Status> {
        Ok(Response::new(self.0.statements(V3, r.into_inner()).await?))
    }

    async fn list_policy_assignment(
        &self,
        r: Request<ListPolicyAssignmentRequest>,
    ) -> Result<Response<Self::ListPolicyAssignmentStream>, Status> {
        Ok(Response::new(self.0.assignments(V3, r.into_inner()).await?))
    }
}

/// Wraps a message under its name in version 3.
fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/apipb.{name}"), value: message.encode_to_vec() }
}

fn peer(peer: Peer) -> apipb::Peer {
    apipb::Peer {
        conf: peer.conf,
        ebgp_multihop: peer.ebgp_multihop,
        route_reflector: peer.route_reflector,
        state: peer.state.map(|s| apipb::PeerState {
            description: s.description,
            local_asn: s.local_asn,
            messages: s.messages,
            neighbor_address: s.neighbor_address,
            peer_asn: s.peer_asn,
            r#type: s.r#type,
            queues: s.queues,
            session_state: s.session_state,
            admin_state: s.admin_state,
            flops: s.flops,
            remote_cap: s.remote_cap.into_iter().filter_map(capability).collect(),
            local_cap: s.local_cap.into_iter().filter_map(capability).collect(),
            router_id: s.router_id,
        }),
        timers: peer.timers,
        transport: peer.transport,
        route_server: peer.route_server,
        graceful_restart: peer.graceful_restart,
        afi_safis: peer.afi_safis,
    }
}

fn capability(capability: Capability) -> Option<Any> {
    Some(match capability.cap? {
        Cap::MultiProtocol(c) => any("MultiProtocolCapability", &c),
        Cap::RouteRefresh(c) => any("RouteRefreshCapability", &c),
        Cap::GracefulRestart(c) => any("GracefulRestartCapability", &c),
        Cap::FourOctetAsn(c) => any("FourOctetASNCapability", &c),
        Cap::AddPath(c) => any("AddPathCapability", &c),
    })
}

fn path(path: Path) -> apipb::Path {
    apipb::Path {
        nlri: path.nlri.and_then(nlri),
        pattrs: path.pattrs.into_iter().filter_map(attribute).collect(),
        age: path.age,
        best: path.best,
        family: path.family,
        source_asn: path.source_asn,
        source_id: path.source_id,
        stale: path.stale,
        is_from_external: path.is_from_external,
        neighbor_ip: path.neighbor_ip,
        identifier: path.identifier,
        local_identifier: path.local_identifier,
    }
}

fn nlri(nlri: Nlri) -> Option<Any> {
    nlri.nlri.map(|nlri::Nlri::Prefix(prefix)| any("IPAddressPrefix", &prefix))
}

fn attribute(attribute: Attribute) -> Option<Any> {
    Some(match attribute.attr? {
        Attr::Origin(a) => any("OriginAttribute", &a),
        Attr::AsPath(a) => any("AsPathAttribute", &a),
        Attr::NextHop(a) => any("NextHopAttribute", &a),
        Attr::MultiExitDisc(a) => any("MultiExitDiscAttribute", &a),
        Attr::LocalPref(a) => any("LocalPrefAttribute", &a),
        Attr::Communities(a) => any("CommunitiesAttribute", &a),
        Attr::OriginatorId(a) => any("OriginatorIdAttribute", &a),
        Attr::ClusterList(a) => any("ClusterListAttribute", &a),
        Attr::LargeCommunities(a) => any("LargeCommunitiesAttribute", &a),
        Attr::MpReach(a) => {
            let nlris = a.nlris.into_iter().filter_map(nlri).collect();
            any(
                "MpReachNLRIAttribute",
                &apipb::MpReachNlriAttribute { family: a.family, next_hops: a.next_hops, nlris },
            )
        }
        Attr::ExtendedCommunities(a) => {
            let communities = a.communities.into_iter().filter_map(ext_community).collect();
            any("ExtendedCommunitiesAttribute", &apipb::ExtendedCommunitiesAttribute { communities })
        }
    })
}

fn ext_community(community: ExtendedCommunity) -> Option<Any> {
    Some(match community.extcom? {
        Extcom::Unknown(c) => any("UnknownExtended", &c),
        Extcom::TwoOctetAsSpecific(c) => any("TwoOctetAsSpecificExtended", &c),
        Extcom::Ipv4AddressSpecific(c) => any("IPv4AddressSpecificExtended", &c),
        Extcom::FourOctetAsSpecific(c) => any("FourOctetAsSpecificExtended", &c),
        Extcom::LinkBandwidth(c) => any("LinkBandwidthExtended", &c),
        Extcom::Opaque(c) => any("OpaqueExtended", &c),
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use fairway_bgp::Origin;
    use prost::Message;

    use crate::messages;
    use crate::model;
    use crate::proto::apipb::ExtendedCommunitiesAttribute;

    /// All attributes, also those that our speaker does not have.
    #[test]
    fn attributes() {
        let path = model::Path {
            prefix: "2001:db8::/32".parse().unwrap(),
            next_hop: "2001:db8::1".parse().unwrap(),
            as_path: vec![64513, 4_200_000_000],
            origin: Origin::Incomplete,
            med: Some(5),
            local_pref: Some(200),
            communities: vec![1],
            ext_communities: vec![
                [0x00, 0x02, 0xfc, 0x00, 0, 0, 0, 100],
                [0x41, 0x03, 10, 0, 0, 1, 0, 7],
                [0x02, 0x02, 0, 1, 0, 0, 0, 9],
                [0x40, 0x04, 0xfc, 0x00, 0x3f, 0x80, 0, 0],
                [0x03, 0x0c, 0, 0, 0, 0, 0, 8],
                [0x06, 0x03, 1, 2, 3, 4, 5, 6],
            ],
            large_communities: vec![[1, 2, 3]],
            originator: Some([10, 0, 0, 9].into()),
            cluster_list: vec![[10, 0, 0, 8].into()],
            best: true,
            stale: true,
            since: SystemTime::UNIX_EPOCH,
            from: None,
            received_id: 3,
            sent_id: 4,
        };
        let path = super::path(messages::path(path));
        assert_eq!((path.identifier, path.local_identifier, path.stale, path.best), (3, 4, true, true));
        let names: Vec<&str> = path.pattrs.iter().map(|a| a.type_url.rsplit('.').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "OriginAttribute",
                "AsPathAttribute",
                "MultiExitDiscAttribute",
                "LocalPrefAttribute",
                "CommunitiesAttribute",
                "OriginatorIdAttribute",
                "ClusterListAttribute",
                "MpReachNLRIAttribute",
                "ExtendedCommunitiesAttribute",
                "LargeCommunitiesAttribute"
            ]
        );
        let extended = ExtendedCommunitiesAttribute::decode(path.pattrs[8].value.as_slice()).unwrap();
        let names: Vec<&str> = extended.communities.iter().map(|c| c.type_url.rsplit('.').next().unwrap()).collect();
        assert_eq!(
            names,
            [
                "TwoOctetAsSpecificExtended",
                "IPv4AddressSpecificExtended",
                "FourOctetAsSpecificExtended",
                "LinkBandwidthExtended",
                "OpaqueExtended",
                "UnknownExtended"
            ]
        );
    }
}
