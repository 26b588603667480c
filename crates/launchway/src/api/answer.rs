//! What the API answers when it cannot do it: JSON with a way out.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use control::control::Declined;
use control::pipeline::{PipelineError, PlanError};
use serde::de::DeserializeOwned;

use super::wire::{Complaint, ExecEvent};

/// A failed request.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    complaint: Complaint,
}

/// What handlers return.
pub type Answer<T> = Result<Json<T>, Problem>;

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let complaint =
            Complaint { error: error.into(), help: None, gate: false, mistakes: Vec::new() };
        Self { status, complaint }
    }

    /// The request makes no sense.
    pub fn usage(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// What it is about does not exist.
    pub fn missing(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// It does not fit what is the case.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// A gate says no.
    pub fn gate(error: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::FORBIDDEN, error);
        problem.complaint.gate = true;
        problem
    }

    /// It took too long.
    pub fn late(limit: Duration) -> Self {
        let error = format!("the server did not manage it within {} s", limit.as_secs());
        Self::new(StatusCode::GATEWAY_TIMEOUT, error).help("look at the server's log")
    }

    /// What to do next.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.complaint.help = Some(help.into());
        self
    }
}

impl From<Problem> for ExecEvent {
    fn from(problem: Problem) -> Self {
        Self::Failed { status: problem.status.as_u16(), complaint: problem.complaint }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self.complaint)).into_response()
    }
}

impl From<Declined> for Problem {
    fn from(declined: Declined) -> Self {
        match declined {
            Declined::Refused(refusal) if refusal.gate => Self::gate(refusal.reason),
            Declined::Refused(refusal) => Self::conflict(refusal.reason),
            Declined::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
            }
        }
    }
}

impl From<PipelineError> for Problem {
    fn from(error: PipelineError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Failed(error) => error.into(),
            PlanError::Mistakes(mistakes) => {
                let mut problem = Self::usage("the configuration of this commit has mistakes");
                problem.complaint.mistakes = mistakes;
                problem
            }
        }
    }
}

impl From<engine::EngineError> for Problem {
    fn from(error: engine::EngineError) -> Self {
        Self::conflict(error.to_string())
    }
}

impl From<store::StoreError> for Problem {
    fn from(error: store::StoreError) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// A JSON body, with refusals of our own form.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(refused) => Err(Problem::usage(refused.body_text())),
        }
    }
}

/// Query parameters, with refusals of our own form.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(refused) => Err(Problem::usage(refused.body_text())),
        }
    }
}
