//! An API object as it comes over the wire: read as far as possible, so that one that cannot be read costs only itself,
//! not the list that it is in.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    event::ObjectName,
    watch::{
        object::typed,
        problem::{Key, Kind, Problem},
    },
};

/// The API types that are read.
pub(super) trait ApiType:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static
{
    const KIND: Kind;
}

impl ApiType for k8s_openapi::api::core::v1::Service {
    const KIND: Kind = Kind::Service;
}

impl ApiType for k8s_openapi::api::core::v1::Node {
    const KIND: Kind = Kind::Node;
}

impl ApiType for k8s_openapi::api::core::v1::Pod {
    const KIND: Kind = Kind::Pod;
}

impl ApiType for k8s_openapi::api::discovery::v1::EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
}

/// An object, or its name and what is wrong with it.
#[derive(Clone, Debug)]
pub(super) enum Raw<K> {
    Good(K),
    Bad(Box<(ObjectMeta, Problem)>),
}

impl<'de, K: ApiType> Deserialize<'de> for Raw<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        let text = |field: &str| Some(metadata.as_ref()?.get(field)?.as_str()?.to_owned());
        let essential = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        if let Some(metadata) = metadata {
            // The larger half of most objects, and of no use here.
            metadata.remove("managedFields");
        }
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let name = ObjectName::new(part(&essential.namespace), part(&essential.name));
        Ok(match typed(&Key { kind: K::KIND, name }, value) {
            Ok(object) => Self::Good(object),
            Err(problem) => Self::Bad(Box::new((essential, problem))),
        })
    }
}

impl<K: ApiType> Resource for Raw<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(dt: &()) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &()) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &()) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &()) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Good(object) => object.meta(),
            Self::Bad(bad) => &bad.0,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Good(object) => object.meta_mut(),
            Self::Bad(bad) => &mut bad.0,
        }
    }
}
