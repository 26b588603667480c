//! One certificate from a CA: account, order, challenges, the certificate (RFC 8555).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use domain::config::{Acme, ChallengeKind};
use edge::{Challenge, PrivateKey};
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, Key, NewOrder, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use store::AcmeAccount;

use super::pair::{Pair, Unfit};
use super::{Shared, answered};

/// For the CA to look, and for it to make the certificate.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// Why there is no certificate. Says nothing of a key.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("{doing}: {why}")]
    Ca { doing: &'static str, why: String },
    #[error("the CA offers no challenge `{0}`; set another `challenge`")]
    NotOffered(&'static str),
    #[error(
        "tls-alpn-01 needs an address for TLS: start the server with --https ADDRESS, or use http-01"
    )]
    NoTls,
    #[error("{0}")]
    NotAnswered(String),
    #[error("the CA does not find {0} to be ours; see that the name leads here from outside")]
    Invalid(String),
    #[error("making a key: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the certificate that came is of no use: {0}")]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error("the CA did not bring it to an end within {within:?}")]
    Late { within: Duration },
}

/// Takes the answers to challenges away, however the order ends.
struct Answers {
    shared: Arc<Shared>,
    http: Vec<String>,
    tls: Vec<String>,
}

impl Drop for Answers {
    fn drop(&mut self) {
        // The edge hears of it with the keeper's next look.
        let mut offered = super::lock(&self.shared.offered);
        self.http.iter().for_each(|token| drop(offered.challenges.http.remove(token)));
        self.tls.iter().for_each(|name| drop(offered.challenges.tls_alpn.remove(name)));
    }
}

/// A new certificate for `names`.
pub async fn order(
    shared: &Arc<Shared>,
    acme: &Acme,
    names: &[String],
) -> Result<Pair, OrderError> {
    let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
    let wanted = NewOrder::new(&identifiers);
    let mut order = account(shared, acme).await?.new_order(&wanted).await;
    if order.as_ref().is_err_and(unknown_account) {
        order = renewed_account(shared, acme).await?.new_order(&wanted).await;
    }
    let mut order = order.map_err(ca("ordering"))?;
    let mut answers = Answers { shared: shared.clone(), http: Vec::new(), tls: Vec::new() };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(ca("asking how to prove a name"))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let (kind, called) = match acme.challenge {
            ChallengeKind::Http01 => (ChallengeType::Http01, "http-01"),
            ChallengeKind::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let mut challenge = authorization.challenge(kind).ok_or(OrderError::NotOffered(called))?;
        let name = challenge.identifier().to_string();
        let proof = challenge.key_authorization();
        match acme.challenge {
            ChallengeKind::Http01 => {
                answers.http.push(challenge.token.clone());
                answer_http(shared, &name, &challenge.token, proof.as_str()).await?;
            }
            ChallengeKind::TlsAlpn01 => {
                answers.tls.push(name.clone());
                answer_tls(shared, &name, proof.digest().as_ref()).await?;
            }
        }
        challenge.set_ready().await.map_err(ca("asking for a look"))?;
    }
    let status = order.poll_ready(&POLL).await.map_err(ca("proving the names"))?;
    if status != OrderStatus::Ready {
        return Err(OrderError::Invalid(refused(&mut order).await));
    }
    drop(answers);
    let key = order.finalize().await.map_err(ca("asking for the certificate"))?;
    let chain = order.poll_certificate(&POLL).await.map_err(ca("fetching the certificate"))?;
    Ok(Pair::check(chain, key)?)
}

/// The one account of this address at this CA. Its key is on disk before the CA hears of it, and asking
/// with the same key again brings the same account.
async fn account(shared: &Shared, acme: &Acme) -> Result<Account, OrderError> {
    let store = &shared.config.store;
    let email = acme.email.clone().unwrap_or_default();
    let known = match store.acme_account(&acme.directory, &email).await? {
        Some(known) => known,
        None => {
            let (_, key) = Key::generate_pkcs8().map_err(ca("making the account's key"))?;
            let key = key.secret_pkcs8_der().to_vec();
            let made = AcmeAccount { directory: acme.directory.clone(), email, key, url: None };
            store.keep_acme_account(&made).await?;
            made
        }
    };
    let builder = match &acme.trust {
        Some(root) => Account::builder_with_root(shared.config.project.join(root)),
        None => Account::builder(),
    };
    let builder = builder.map_err(ca("reading the roots that the CA is known by"))?;
    let pkcs8 = || PrivatePkcs8KeyDer::from(known.key.clone());
    let directory = acme.directory.clone();
    if let Some(url) = &known.url {
        let account = builder.from_parts(url.clone(), pkcs8(), directory).await;
        return account.map_err(ca("reaching the CA"));
    }
    let key = Key::from_pkcs8_der(pkcs8()).map_err(ca("reading the account's key"))?;
    let pair = (key, PrivateKeyDer::Pkcs8(pkcs8()));
    let created = builder.create_from_key(pair, directory).await;
    let (account, _) = created.map_err(ca("making an account"))?;
    if !known.email.is_empty() {
        let contact = format!("mailto:{}", known.email);
        account.update_contacts(&[&contact]).await.map_err(ca("saying our address"))?;
    }
    store.keep_acme_account(&AcmeAccount { url: Some(account.id().into()), ..known }).await?;
    Ok(account)
}

/// CAs lose accounts too: those for tests begin anew now and then. The key stays the same.
async fn renewed_account(shared: &Shared, acme: &Acme) -> Result<Account, OrderError> {
    let store = &shared.config.store;
    let email = acme.email.as_deref().unwrap_or_default();
    if let Some(known) = store.acme_account(&acme.directory, email).await? {
        store.keep_acme_account(&AcmeAccount { url: None, ..known }).await?;
    }
    account(shared, acme).await
}

/// RFC 8555, section 6.7.
fn unknown_account(error: &instant_acme::Error) -> bool {
    let instant_acme::Error::Api(problem) = error else { return false };
    problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

async fn answer_http(
    shared: &Shared,
    name: &str,
    token: &str,
    proof: &str,
) -> Result<(), OrderError> {
    shared.answer_http(token, proof).await;
    let seen = answered::over_http(shared.config.http, name, token, proof).await;
    seen.map_err(OrderError::NotAnswered)
}

async fn answer_tls(shared: &Shared, name: &str, digest: &[u8]) -> Result<(), OrderError> {
    let address = shared.config.https.ok_or(OrderError::NoTls)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let (chain, secret) = (certificate.pem(), PrivateKey::new(key.serialize_pem()));
    shared.answer_tls(name, Challenge { chain, key: secret }).await;
    let seen = answered::over_tls(address, name, certificate.der().clone()).await;
    seen.map_err(OrderError::NotAnswered)
}

/// What the CA says of the names that it refuses.
async fn refused(order: &mut instant_acme::Order) -> String {
    let mut said = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let name = state.identifier().to_string();
        let problem = state.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        let detail = problem.and_then(|problem| problem.detail.as_deref());
        said.extend(detail.map(|detail| format!("{name} ({detail})")));
    }
    if said.is_empty() { "the names".into() } else { said.join(", ") }
}

/// The whole reason, down to its cause, without line breaks.
fn ca(doing: &'static str) -> impl Fn(instant_acme::Error) -> OrderError {
    move |error| {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            let text = deeper.to_string();
            if !why.contains(&text) {
                why = format!("{why}: {text}");
            }
            cause = deeper.source();
        }
        OrderError::Ca { doing, why: why.replace(['\n', '\r'], " ") }
    }
}
