//! The guest's interfaces and routes, as JSON.

use serde::de::DeserializeOwned;

use super::call::{Answer, Call};
use crate::backend::{Failure, Kind};

/// `GET /network/interfaces`
pub(super) async fn interfaces(call: Call) -> Result<Answer, Failure> {
    Answer::json(&call.sandbox.interfaces().await?)
}

/// `POST /network/interfaces`
pub(super) async fn add(call: Call) -> Result<Answer, Failure> {
    call.sandbox.add_interface(read(&call, "an interface")?).await?;
    Ok(Answer::empty())
}

/// `DELETE /network/interfaces/<name>`
pub(super) async fn remove(call: Call) -> Result<Answer, Failure> {
    call.sandbox.remove_interface(&call.name).await?;
    Ok(Answer::empty())
}

/// `GET /network/routes`
pub(super) async fn routes(call: Call) -> Result<Answer, Failure> {
    Answer::json(&call.sandbox.routes().await?)
}

/// `PUT /network/routes`
pub(super) async fn set_routes(call: Call) -> Result<Answer, Failure> {
    call.sandbox.set_routes(Some(read(&call, "a list of routes")?)).await?;
    Ok(Answer::empty())
}

/// `DELETE /network/routes`
pub(super) async fn reset_routes(call: Call) -> Result<Answer, Failure> {
    call.sandbox.set_routes(None).await?;
    Ok(Answer::empty())
}

fn read<T: DeserializeOwned>(call: &Call, what: &str) -> Result<T, Failure> {
    serde_json::from_slice(&call.body)
        .map_err(|error| Failure::new(Kind::InvalidArgument, format!("The body is not {what}: {error}")))
}
