//! The part of a network configuration that every plugin shares.

use super::environment::validate_network_name;
use super::error::{CniError, ErrorCode};
use super::fields::{Field, Fields};
use super::json::{Json, Object};
use super::result::CniResult;
use super::version::{self, CniVersion};

/// A network configuration from stdin, decoded and with a valid network name.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// The network's name.
    pub name: String,
    /// `cniVersion` as it was written; empty when absent.
    pub version_text: String,
    json: Json,
}

impl NetworkConfig {
    /// Decodes stdin. Code 6 for text that is no JSON object, code 7 for its name.
    pub fn from_stdin(text: &[u8]) -> Result<Self, CniError> {
        let json = Json::parse(text).map_err(|error| {
            if error.is_data() {
                // The one thing that is wrong with a document that is JSON.
                return decoding("the network configuration on stdin is too large")
                    .with_details(error.to_string());
            }
            let hint = if text.is_empty() {
                "stdin is empty; a runtime sends the configuration there".to_owned()
            } else {
                error.to_string()
            };
            decoding("error unmarshall network config: stdin is not one JSON document")
                .with_details(hint)
        })?;
        // Go decodes `null` into an empty struct, so the complaint is the missing name.
        let json = if json == Json::Null { Json::Object(Object::default()) } else { json };
        let Json::Object(object) = &json else {
            return Err(decoding(&format!(
                "error unmarshall network config: the document is {}, not an object",
                json.kind()
            )));
        };
        let text_of = |key: &str, context: &str| match object.get(key) {
            None => Ok(String::new()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(other) => {
                Err(decoding(&format!("{context}: {key} is {}, not a string", other.kind())))
            }
        };
        let name = text_of("name", "error unmarshall network config")?;
        validate_network_name(&name)?;
        let version_text = text_of("cniVersion", "decoding version from network config")?;
        Ok(Self { name, version_text, json })
    }

    /// Checks the types of the fields that plugins share but may not use, as the Go types do.
    pub fn validate_common(&self) -> Result<(), CniError> {
        self.with_fields(|top| {
            let capabilities = top.field("capabilities");
            if let Some(fields) = capabilities.object()? {
                for (key, value) in fields.members().iter() {
                    if !matches!(value, Json::Bool(_) | Json::Null) {
                        return Err(CniError::config(format!(
                            "capabilities.{key} must be true or false, but is {}",
                            value.kind()
                        )));
                    }
                }
            }
            let ipam = top.field("ipam");
            if let Some(fields) = ipam.object()? {
                fields.field("type").string()?;
            }
            top.field("dns").object().map(|_| ())
        })
    }

    /// Runs `read` on the top-level fields.
    pub fn with_fields<T>(
        &self,
        read: impl FnOnce(Fields<'_>) -> Result<T, CniError>,
    ) -> Result<T, CniError> {
        let root = Field::root(&self.json);
        match root.object()? {
            Some(fields) => read(fields),
            None => Err(root.expected("an object")),
        }
    }

    /// The top-level keys in document order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.json.as_object().into_iter().flat_map(Object::iter).map(|(key, _)| key)
    }

    /// The whole document.
    #[must_use]
    pub fn json(&self) -> &Json {
        &self.json
    }

    /// The version for ADD and DEL: an exact match.
    pub fn version(&self) -> Result<CniVersion, CniError> {
        version::select(&self.version_text)
    }

    /// The previous result, if there is one. It may be of any known version.
    pub fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        let fallback = self.version()?;
        let Some(value) = self.json.as_object().and_then(|top| top.get("prevResult")) else {
            return Ok(None);
        };
        if value.as_object().is_none() {
            return Err(CniError::config(format!(
                "could not parse prevResult: it is {}, not an object",
                value.kind()
            )));
        }
        CniResult::from_json(value, fallback).map(Some).map_err(|error| CniError {
            msg: format!("could not parse prevResult: {}", error.msg),
            ..error
        })
    }
}

fn decoding(msg: &str) -> CniError {
    CniError::new(ErrorCode::Decoding, msg)
}

/// One attachment that the runtime still knows (GC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidAttachment {
    /// Container ID.
    pub container_id: String,
    /// Interface name in the container.
    pub ifname: String,
}

impl NetworkConfig {
    /// The attachments that GC must keep: `cni.dev/valid-attachments`, or libcni's older
    /// `cni.dev/attachments`.
    ///
    /// An empty list or `null` (a Go runtime's empty list) means that none is valid. `None`
    /// means that the runtime sent neither key; nothing is then known to be stale.
    pub fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>, CniError> {
        let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let present = |key: &&str| {
            self.json
                .as_object()
                .is_some_and(|top| top.iter().any(|(k, _)| k.eq_ignore_ascii_case(key)))
        };
        let Some(key) = keys.iter().find(|key| present(key)) else { return Ok(None) };
        self.with_fields(|top| {
            let mut valid = Vec::new();
            for item in top.field(key).list()?.into_iter().flatten() {
                let fields = item.object()?.ok_or_else(|| item.expected("an object"))?;
                let text = |key| {
                    let field = fields.field(key);
                    field.string()?.map(str::to_owned).ok_or_else(|| field.expected("a string"))
                };
                valid.push(ValidAttachment {
                    container_id: text("containerID")?,
                    ifname: text("ifname")?,
                });
            }
            Ok(Some(valid))
        })
    }
}
