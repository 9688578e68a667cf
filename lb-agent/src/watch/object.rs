//! From untyped documents to API objects. Going through `serde_json::Value` costs a copy, but an object of which one
//! field has the wrong type is then still known by its name, and the field by its path.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::{Key, Problem};

/// Reads `value` as the API type `T`.
pub(super) fn typed<T: DeserializeOwned>(key: &Key, value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| key.problem(error.path().to_string(), error.inner().to_string()))
}
