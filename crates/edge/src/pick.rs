//! Which replica gets a request: the less loaded of two drawn at random.

use std::sync::Arc;

use crate::replica::Replica;

/// Whether somebody else could answer.
pub fn others(replicas: &[Arc<Replica>], replica: &Arc<Replica>) -> bool {
    replicas.iter().any(|other| other.id != replica.id && other.healthy())
}

/// Chooses among the healthy replicas, leaving out `tried` while there is another.
///
/// When every replica is ejected, all of them are candidates: an attempt costs little, a wrong or shared
/// health check must not take a whole service down, and the client gets the replica's own answer if there is one.
pub fn pick(
    replicas: &[Arc<Replica>],
    tried: Option<u64>,
    mut random: impl FnMut() -> u64,
) -> Option<&Arc<Replica>> {
    if let [only] = replicas {
        return Some(only);
    }
    let fresh = |r: &Replica| Some(r.id) != tried;
    let rules: [&dyn Fn(&Replica) -> bool; 3] =
        [&|r| r.healthy() && fresh(r), &|r| fresh(r), &|_| true];
    for allowed in rules {
        let count = replicas.iter().filter(|r| allowed(r)).count();
        if count == 0 {
            continue;
        }
        let mut draw = |n: usize| {
            let at = (random() % n as u64) as usize;
            (at, replicas.iter().filter(|r| allowed(r)).nth(at))
        };
        let (first, one) = draw(count);
        if count == 1 {
            return one;
        }
        // Drawn from the others, so that two replicas are always compared with each other.
        let (second, _) = draw(count - 1);
        let second = if second >= first { second + 1 } else { second };
        let two = replicas.iter().filter(|r| allowed(r)).nth(second);
        // Health may change between the passes; one of the two draws is enough.
        return match (one, two) {
            (Some(a), Some(b)) if b.load() < a.load() => Some(b),
            (Some(a), _) => Some(a),
            (None, b) => b,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::{Fault, Load};
    use domain::route::FactsKey;
    use domain::{Color, EnvironmentName, ReleaseId, ServiceName};

    fn replicas(count: u64) -> Vec<Arc<Replica>> {
        let key = FactsKey {
            environment: EnvironmentName::new("staging").unwrap(),
            slot: Color::Blue,
            release: ReleaseId::nth(1),
            service: ServiceName::new("backend").unwrap(),
        };
        let address = "127.0.0.1:1".parse().unwrap();
        (0..count).map(|id| Arc::new(Replica::new(id, key.clone(), address, None))).collect()
    }

    fn counter() -> impl FnMut() -> u64 {
        let mut n = 0;
        move || {
            n += 1;
            n
        }
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let two = replicas(2);
        let _busy = Load::on(two[0].clone());
        let mut random = counter();
        assert!((0..20).all(|_| pick(&two, None, &mut random).unwrap().id == 1));
    }

    #[test]
    fn an_ejected_replica_is_left_out_until_all_are_ejected() {
        let three = replicas(3);
        three[0].eject(Fault::Refused);
        three[1].eject(Fault::Refused);
        let mut random = counter();
        assert!((0..20).all(|_| pick(&three, None, &mut random).unwrap().id == 2));
        three[2].eject(Fault::Refused);
        assert!(pick(&three, None, &mut random).is_some());
        assert!(pick(&[], None, &mut random).is_none());
    }

    #[test]
    fn a_retry_goes_to_another_replica() {
        let two = replicas(2);
        let mut random = counter();
        assert!((0..20).all(|_| pick(&two, Some(0), &mut random).unwrap().id == 1));
    }
}
