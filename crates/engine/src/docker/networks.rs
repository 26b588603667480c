//! Networks: one for each slot, one for each environment, with subnets of our own choice.
//!
//! Docker keeps the address of a container over its restarts only in a network whose subnet was chosen by whoever
//! made it. The lower half of a slot's subnet is for replicas, whose addresses are fixed; Docker gives out the upper.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};

use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptionsBuilder};
use domain::slot::Color;
use domain::{Digest, EnvironmentName};

use super::DockerEngine;
use super::connect::{Trouble, is_done, status};
use super::labels;

/// A network that is there.
#[derive(Debug, Clone)]
pub(super) struct Net {
    pub(super) id: String,
    pub(super) subnet: Option<Subnet>,
    /// Containers in it answer at their own addresses, because the bridge is an interface of this machine.
    pub(super) direct: bool,
}

/// 256 addresses, of which the first is the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet(Ipv4Addr);

impl Subnet {
    fn parse(text: &str) -> Option<Self> {
        let (address, "24") = text.split_once('/')? else { return None };
        address.parse().ok().map(Self)
    }

    fn at(self, last: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.0.octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// The lowest fixed address that nobody has.
    pub(super) fn free(self, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        (2..128).map(|last| self.at(last)).find(|address| !taken.contains(address))
    }

    pub(super) fn holds(self, address: Ipv4Addr) -> bool {
        self.at(address.octets()[3]) == address
    }
}

impl DockerEngine {
    pub(super) async fn slot_network(
        &self,
        app: &str,
        environment: &EnvironmentName,
        slot: Color,
    ) -> Result<Net, Trouble> {
        let name = labels::slot_network(app, environment, slot);
        self.network(&name, app, environment, Some(slot)).await
    }

    pub(super) async fn environment_network(
        &self,
        app: &str,
        environment: &EnvironmentName,
    ) -> Result<Net, Trouble> {
        let name = labels::environment_network(app, environment);
        self.network(&name, app, environment, None).await
    }

    async fn network(
        &self,
        name: &str,
        app: &str,
        environment: &EnvironmentName,
        slot: Option<Color>,
    ) -> Result<Net, Trouble> {
        let key = self.records.environment(environment).join(name);
        let _guard = self.records.guard(&key).await;
        let ours = self.networks(environment).await?;
        let wanted = slot.map_or("", |slot| slot.as_str());
        let mut same: Vec<Network> = ours;
        same.retain(|net| labels::get(&net.labels, labels::SLOT) == wanted);
        same.sort_by_key(age);
        let mut same = same.into_iter().filter_map(|net| net.id);
        if let Some(id) = same.next() {
            // One that was being made for a server that died meanwhile; the Engine cannot tell their names apart.
            for other in same {
                self.drop_network(&other).await?;
            }
            return self.look_at_network(&id).await;
        }
        let mut pairs = vec![
            (labels::STATE, self.state.as_str()),
            (labels::APP, app),
            (labels::ENVIRONMENT, environment.as_str()),
        ];
        pairs.extend(slot.map(|slot| (labels::SLOT, slot.as_str())));
        let own = format!("{name}-{}", &self.state[..8]);
        let mut id = String::new();
        for name in [name, &own] {
            if !self.named(name).await?.is_empty() {
                continue;
            }
            id = self.make_network(name, &pairs).await?;
            // Another installation may have taken the name in the same moment: who was first keeps it.
            if self.named(name).await?.first().is_none_or(|net| net.id.as_ref() == Some(&id)) {
                break;
            }
            self.drop_network(&id).await?;
            id.clear();
        }
        if id.is_empty() {
            return Err(Trouble::refused(format!(
                "networks called {name} and {own} are there already, and not ours; remove them"
            )));
        }
        self.look_at_network(&id).await
    }

    /// Networks of exactly this name, whosever, the oldest first. The Engine does not keep names apart.
    async fn named(&self, name: &str) -> Result<Vec<Network>, Trouble> {
        let filter = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        let found = self.docker().await?.list_networks(Some(options)).await;
        let mut found = found.map_err(|error| self.trouble(error))?;
        found.retain(|net| net.name.as_deref() == Some(name));
        found.sort_by_key(age);
        Ok(found)
    }

    /// Networks of the environment.
    pub(super) async fn networks(
        &self,
        environment: &EnvironmentName,
    ) -> Result<Vec<Network>, Trouble> {
        let filter = labels::filter(&[
            (labels::STATE, &self.state),
            (labels::ENVIRONMENT, environment.as_str()),
        ]);
        let options = ListNetworksOptionsBuilder::new().filters(&filter).build();
        let docker = self.docker().await?;
        docker.list_networks(Some(options)).await.map_err(|error| self.trouble(error))
    }

    async fn make_network(&self, name: &str, pairs: &[(&str, &str)]) -> Result<String, Trouble> {
        let docker = self.docker().await?;
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        let mut last = None;
        for subnet in candidates(name).filter(|subnet| !overlaps(&routes, *subnet)).take(64) {
            let config = IpamConfig {
                subnet: Some(format!("{}/24", subnet.0)),
                ip_range: Some(format!("{}/25", subnet.at(128))),
                gateway: Some(subnet.at(1).to_string()),
                auxiliary_addresses: None,
            };
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some("bridge".into()),
                ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
                labels: Some(labels::of(pairs)),
                ..NetworkCreateRequest::default()
            };
            match docker.create_network(request).await {
                Ok(made) => return Ok(made.id),
                // Another network has it, or the interface of one that is just going away.
                Err(error) if matches!(status(&error), Some(400 | 403 | 409 | 500)) => {
                    last = Some(self.trouble(error));
                }
                Err(error) => return Err(self.trouble(error)),
            }
        }
        let why = last.map_or("every subnet is in use".to_owned(), |trouble| trouble.to_string());
        Err(Trouble::refused(format!(
            "the network {name} cannot be made: {why}; remove networks that nobody uses (`docker network ls`, `docker network prune`)"
        )))
    }

    async fn look_at_network(&self, id: &str) -> Result<Net, Trouble> {
        let docker = self.docker().await?;
        let found = docker.inspect_network(id, None::<InspectNetworkOptions>).await;
        let found = found.map_err(|error| self.trouble(error))?;
        let config = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        let first = config.into_iter().next();
        let subnet = first.as_ref().and_then(|c| Subnet::parse(c.subnet.as_deref()?));
        let gateway = first.and_then(|config| config.gateway?.parse().ok());
        Ok(Net { id: id.to_owned(), subnet, direct: gateway.is_some_and(is_ours) })
    }

    /// Removes the networks of the environment. One that strangers are in stays.
    pub(super) async fn drop_networks(&self, environment: &EnvironmentName) -> Result<(), Trouble> {
        for id in self.networks(environment).await?.into_iter().filter_map(|net| net.id) {
            self.drop_network(&id).await?;
        }
        Ok(())
    }

    async fn drop_network(&self, id: &str) -> Result<(), Trouble> {
        match self.docker().await?.remove_network(id).await {
            Err(error) if status(&error) == Some(403) => {
                let why = self.trouble(error);
                tracing::warn!(%why, "a network stays: something that is not ours is in it");
                Ok(())
            }
            Err(error) if !is_done(&error) => Err(self.trouble(error)),
            _ => Ok(()),
        }
    }
}

/// To the nanosecond; of two in the same, the id decides.
fn age(net: &Network) -> (Option<String>, Option<String>) {
    (net.created.clone(), net.id.clone())
}

/// An address of an interface of this machine: then Docker's bridges are here too, and not in a virtual machine.
pub(super) fn is_ours(gateway: Ipv4Addr) -> bool {
    UdpSocket::bind((gateway, 0)).is_ok()
}

/// Parts of the ranges that Docker itself takes networks from by default (172.17.0.0 to 172.31.255.255), in an order
/// of the name's own, so that two who look at the same time rarely choose the same.
fn candidates(name: &str) -> impl Iterator<Item = Subnet> {
    let digest = Digest::of(name);
    let start = u32::from_str_radix(&digest.as_str()[..6], 16).unwrap_or(0);
    (0..15 * 256).map(move |step| {
        let number = (start + step) % (15 * 256);
        // From the end: Docker begins at the other.
        let (second, third) = (31 - number / 256, number % 256);
        Subnet(Ipv4Addr::new(172, second as u8, third as u8, 0))
    })
}

/// Whether the machine routes any of it already. `/proc/net/route` has addresses in hex, low byte first (proc(5)).
fn overlaps(routes: &str, subnet: Subnet) -> bool {
    let number = |hex: &str| u32::from_str_radix(hex, 16).map(u32::from_be).ok();
    let wanted = u32::from(subnet.0);
    routes.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let route = fields.get(1).and_then(|hex| number(hex));
        let mask = fields.get(7).and_then(|hex| number(hex));
        let (Some(route), Some(mask)) = (route, mask) else { return false };
        let common = mask & 0xffff_ff00;
        mask != 0 && wanted & common == route & common
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
        eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\n\
        br-1\t00001FAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";

    #[test]
    fn a_subnet_that_the_machine_routes_is_left_alone() {
        let at = |text: &str| Subnet(text.parse().unwrap());
        assert!(overlaps(ROUTES, at("172.31.7.0")));
        assert!(!overlaps(ROUTES, at("172.30.7.0")));
        assert!(!overlaps("", at("172.31.7.0")));
    }

    #[test]
    fn fixed_addresses_are_given_from_the_lowest() {
        let subnet = Subnet::parse("172.30.7.0/24").unwrap();
        let first = subnet.free(&BTreeSet::new()).unwrap();
        assert_eq!(first.to_string(), "172.30.7.2");
        assert_eq!(subnet.free(&BTreeSet::from([first])).unwrap().to_string(), "172.30.7.3");
        let all: BTreeSet<_> = (2..128).map(|last| subnet.at(last)).collect();
        assert_eq!(subnet.free(&all), None);
        assert!(subnet.holds(first) && !subnet.holds("10.0.0.2".parse().unwrap()));
        assert_eq!(Subnet::parse("172.17.0.0/16"), None);
    }

    #[test]
    fn every_candidate_is_tried_once() {
        let all: BTreeSet<Ipv4Addr> = candidates("teahouse-staging").map(|s| s.0).collect();
        assert_eq!(all.len(), 15 * 256);
        assert!(all.iter().all(|a| a.octets()[0] == 172 && (17..32).contains(&a.octets()[1])));
    }
}
