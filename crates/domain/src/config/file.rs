//! `launchway.yaml` as it is written: one type per mapping, from which the JSON Schema comes too.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::mistake::Mistakes;
use super::project::{ChallengeKind, EngineKind};
use super::reader::{At, FromNode, Loose, Map, Need, mapping, words};
use super::scan::Scan;
use super::yaml::{Node, Value};
use crate::units::{Factor, Percent, Rate, Size, Span};
use crate::{AppName, StepName};

mapping! {
    /// What happens to an app on its way to production.
    Launchway, "launchway.yaml" {
        /// Name of the app; part of its host names.
        "app" app: Need<At<AppName>>,
        /// What Compose cannot say about the services that are built here.
        "services" services: Option<Need<Map<Service>>>,
        /// Path prefix to the service that answers it. The longest matching prefix wins.
        "routes" routes: Need<At<Map<Route>>>,
        /// The build pipeline.
        "build" build: Option<Build>,
        /// Where releases run.
        "environments" environments: Need<At<Map<Environment>>>,
        /// Whether environments of one road may run different artifacts (one processes, one containers): then
        /// production does not run what was tested before it. Only in writing.
        "mixed_artifacts" mixed_artifacts: Option<At<Permission>>,
        /// Where images are pushed to and pulled from, by default nowhere.
        "registry" registry: Option<Registry>,
    }
    refuse {
        "objectives" => "remove it for now; thresholds of a rollout go into `verify` and `bake`",
        "business" => "remove it for now",
    }
}

mapping! {
    /// A registry of images; who may use it is in Docker's own configuration.
    Registry, "`registry`" {
        /// What the names of images begin with, like `registry.example.com/team`.
        "push" push: At<String>,
    }
}

mapping! {
    /// A route in full.
    FullRoute, "a route" {
        /// The service that answers.
        "service" service: At<String>,
        /// The largest request body that is let through, by default any.
        "max_body" max_body: Option<Size>,
    }
}

mapping! {
    /// A service that is built here.
    Service, "a service" {
        /// Asked for readiness: 2xx is ready. Without it the port only has to accept a connection.
        "health" health: Option<At<Health>>,
        /// Run once per release, before the switch.
        "migrate" migrate: Option<At<String>>,
        /// The port of its container that answers, if the image or Compose name several or none.
        "port" port: Option<At<u32>>,
        /// How to build and run it without containers.
        "native" native: Option<Need<At<Native>>>,
        /// How many run side by side; by default what Compose says in `deploy.replicas`, or 1.
        "replicas" replicas: Option<At<u32>>,
    }
}

mapping! {
    /// How the process engine builds and runs a service.
    Native, "`native`" {
        /// Makes the artifact, in a clean copy of the build context.
        "setup" setup: Option<String>,
        /// Starts it; it must listen on `$PORT`.
        "run" run: Option<At<String>>,
        /// A folder of files that the edge serves; nothing runs.
        "static" files: Option<At<String>>,
    }
}

mapping! {
    /// A health check in full.
    Probing, "`health`" {
        /// Asked with GET.
        "path" path: At<String>,
        /// Between two probes, by default 1s.
        "interval" interval: Option<At<Span>>,
        /// For one probe, by default 2s.
        "timeout" timeout: Option<At<Span>>,
        /// From the start of the process until it must have been ready, by default 60s.
        "start" start: Option<At<Span>>,
    }
}

mapping! {
    /// The build pipeline: analyze, test, images, integrate, scan, in this order.
    Build, "`build`" {
        /// Static analysis.
        "analyze" analyze: Option<Vec<Step>>,
        /// Unit tests.
        "test" test: Option<Vec<Step>>,
        /// Tests against a throwaway environment.
        "integrate" integrate: Option<Vec<Step>>,
        /// The scan gate; by default it refuses where nothing is built but folders, because no scanner answered.
        "scan" scan: Option<Scan>,
        /// How many steps of a stage run side by side, by default 4.
        "parallel" parallel: Option<At<u32>>,
    }
}

mapping! {
    /// A command with its results.
    Step, "a step" {
        /// Its name, once in the build.
        "name" name: At<StepName>,
        /// The folder it runs in, from the project's root.
        "in" folder: Option<At<String>>,
        /// The command, for `sh -c`.
        "run" run: String,
        /// Added to its environment.
        "env" env: Option<Map<Loose>>,
        /// After this it is stopped and has failed, by default 10m.
        "time_limit" time_limit: Option<At<Span>>,
        /// How often it is tried again, by default 0.
        "retries" retries: Option<At<u32>>,
        /// Files and folders whose content decides about reuse, from the project's root.
        "inputs" inputs: Option<Vec<At<String>>>,
        /// A JUnit report it writes, from its folder.
        "junit" junit: Option<At<String>>,
        /// A SARIF report it writes, from its folder.
        "sarif" sarif: Option<At<String>>,
        /// A CycloneDX document it writes, from its folder.
        "cyclonedx" cyclonedx: Option<At<String>>,
        /// Services of the throwaway environment it needs; only in `integrate`.
        "with" with: Option<At<Vec<At<String>>>>,
    }
}

mapping! {
    /// Where releases run.
    Environment, "an environment" {
        /// What runs replicas, by default process.
        "engine" engine: Option<Need<At<EngineKind>>>,
        /// The host name it answers at, by default `<environment>.<app>.localhost`.
        "host" host: Option<At<String>>,
        /// Further host names that answer the same.
        "names" names: Option<Vec<At<String>>>,
        /// HTTPS, and where its certificate comes from.
        "tls" tls: Option<At<Tls>>,
        /// Every green build of this branch is deployed here by itself.
        "branch" branch: Option<At<String>>,
        /// A release comes here after it was good there.
        "after" after: Option<At<String>>,
        /// How a release becomes live.
        "strategy" strategy: Option<Strategy>,
        /// Checks of the candidate before it gets the traffic.
        "verify" verify: Option<Verify>,
        /// A human gate.
        "approval" approval: Option<Approval>,
        /// The watch after the switch; it rolls back by itself.
        "bake" bake: Option<Bake>,
        /// What backing services begin with.
        "data" data: Option<Map<Data>>,
        /// How many replicas of a service, where it differs.
        "replicas" replicas: Option<Map<At<u32>>>,
        /// Variables for Compose interpolation.
        "variables" variables: Option<Map<Loose>>,
        /// How long WebSockets and streams may stay on the old slot, by default 30s.
        "drain" drain: Option<Span>,
        /// Over how much time they are closed after that, so that not all come back at once, by default 5s.
        "spread" spread: Option<Span>,
        /// How long the old slot stays warm for an instant rollback, by default 30m.
        "keep" keep: Option<Span>,
    }
    refuse {
        "zones" => "remove it for now: the process engine runs on one machine",
    }
}

mapping! {
    /// HTTPS: a certificate from files of the machine, or from a CA.
    Tls, "`tls`" {
        /// A PEM file with the certificate and its chain, from the project's folder; read by the server,
        /// and again whenever it changes.
        "certificate" certificate: Option<At<String>>,
        /// The PEM file with its key.
        "key" key: Option<At<String>>,
        /// Certificates from a CA, obtained and renewed by themselves.
        "acme" acme: Option<At<Acme>>,
        /// Send plain HTTP to HTTPS, by default true.
        "redirect" redirect: Option<bool>,
    }
}

mapping! {
    /// A CA that speaks ACME (RFC 8555).
    Acme, "`acme`" {
        /// Where the CA writes to when something is wrong with a certificate.
        "email" email: Option<At<String>>,
        /// The CA's directory, by default that of Let's Encrypt.
        "directory" directory: Option<At<String>>,
        /// How the CA sees that the names are ours, by default http-01.
        "challenge" challenge: Option<ChallengeKind>,
        /// A PEM file with the root by which a private CA's directory is known.
        "trust" trust: Option<At<String>>,
    }
}

mapping! {
    /// Checks of a candidate.
    Verify, "`verify`" {
        /// End-to-end tests; `$BASE_URL` is the candidate.
        "e2e" e2e: Option<Vec<Step>>,
        /// A load test with thresholds.
        "performance" performance: Option<At<Performance>>,
    }
}

mapping! {
    /// An open-loop load test: requests come at a constant rate, whether answers do or not.
    Performance, "`performance`" {
        /// Requests per second.
        "rate" rate: Rate,
        /// How long.
        "for" duration: At<Span>,
        /// Asked in turn, by default `/`.
        "paths" paths: Option<At<Vec<At<String>>>>,
        /// 95% of the answers come within this time.
        "p95" p95: Option<Span>,
        /// 99% of the answers come within this time.
        "p99" p99: Option<Span>,
        /// The share of requests that may fail.
        "errors" errors: Percent,
        /// Measure live and candidate side by side and compare them.
        "versus" versus: Option<Versus>,
        /// How much slower than live the candidate may be, by default 1.5x.
        "slower" slower: Option<At<Factor>>,
    }
}

mapping! {
    /// A human gate.
    Approval, "`approval`" {
        /// OS users or groups, one of whom must agree.
        "from" from: At<Vec<At<String>>>,
        /// The author of the commit cannot approve it, by default false.
        "not_author" not_author: Option<bool>,
        /// How long an approval may be given and used, by default 24h.
        "expires" expires: Option<At<Span>>,
    }
}

mapping! {
    /// The watch after a switch.
    Bake, "`bake`" {
        /// How long.
        "for" duration: At<Span>,
        /// More answers than this with status 5xx roll back.
        "errors" errors: Percent,
        /// A p99 above this many times the old one rolls back.
        "p99" p99: Option<Factor>,
    }
}

mapping! {
    /// What a backing service begins with.
    Data, "`data`" {
        /// An SQL file, loaded once when the data folder is new.
        "load" load: At<String>,
    }
    refuse {
        "from" => "write `load: <file.sql>` with test data",
        "mask" => "write `load: <file.sql>` with test data",
    }
}

/// Something that must be allowed in writing.
#[derive(Debug, Clone, Copy, PartialEq, JsonSchema)]
pub(super) enum Permission {
    #[schemars(rename = "allow")]
    Allow,
}

/// The only strategy there is.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub(super) enum Strategy {
    #[schemars(rename = "blue-green")]
    BlueGreen,
}

/// What a load test is compared with.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
pub(super) enum Versus {
    #[schemars(rename = "live")]
    Live,
}

impl Environment {
    /// What runs it; `None` where that is a mistake: nothing follows from it then.
    pub fn runs_on(&self) -> Option<EngineKind> {
        match &self.engine {
            None => Some(EngineKind::Process),
            Some(written) => written.0.as_ref().map(|at| at.value),
        }
    }
}

words! {
    EngineKind: "process" => EngineKind::Process, "docker" => EngineKind::Docker;
        "kubernetes" => "write `engine: process` or `engine: docker`";
    Strategy: "blue-green" => Strategy::BlueGreen;
        "rolling" => "write `strategy: blue-green`, or leave it out",
        "canary" => "write `strategy: blue-green`, or leave it out";
    Permission: "allow" => Permission::Allow;;
    Versus: "live" => Versus::Live;;
    ChallengeKind: "http-01" => ChallengeKind::Http01, "tls-alpn-01" => ChallengeKind::TlsAlpn01;
        "dns-01" => "write `challenge: http-01` or `challenge: tls-alpn-01`";
}

/// `/path: service`, or in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Route {
    To(At<String>),
    Full(FullRoute),
}

impl Route {
    pub fn service(&self) -> &At<String> {
        match self {
            Self::To(service) => service,
            Self::Full(route) => &route.service,
        }
    }

    pub fn max_body(&self) -> Option<Size> {
        match self {
            Self::To(_) => None,
            Self::Full(route) => route.max_body,
        }
    }
}

impl FromNode for Route {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => FullRoute::read(node, mistakes).map(Self::Full),
            _ => At::read(node, mistakes).map(Self::To),
        }
    }
}

impl JsonSchema for Route {
    fn schema_name() -> Cow<'static, str> {
        "Route".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = generator.subschema_for::<FullRoute>();
        json_schema!({ "anyOf": [{ "type": "string" }, full] })
    }
}

/// `health: /path`, or in full.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Health {
    Path(At<String>),
    Full(Probing),
}

impl FromNode for Health {
    fn read(node: &Node, mistakes: &mut Mistakes<'_>) -> Option<Self> {
        match &node.value {
            Value::Map(_) => Probing::read(node, mistakes).map(Self::Full),
            _ => At::read(node, mistakes).map(Self::Path),
        }
    }
}

impl JsonSchema for Health {
    fn schema_name() -> Cow<'static, str> {
        "Health".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let full = generator.subschema_for::<Probing>();
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^/" }, full] })
    }
}
