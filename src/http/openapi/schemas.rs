//! Schemas of what no type of ours describes: the event that a service sends, which its own strict parser reads,
//! and the record, which is written as text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// An event as a service sends it (docs/format/event.md §1).
pub(crate) struct AnyEvent;

impl JsonSchema for AnyEvent {
    fn schema_name() -> Cow<'static, str> {
        "Event".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = || json_schema!({"type": "string", "maxLength": 2048});
        let required_text = || json_schema!({"type": "string", "minLength": 1, "maxLength": 2048});
        let label = || json_schema!({"type": "string", "minLength": 1, "maxLength": 128});
        json_schema!({
            "type": "object",
            "additionalProperties": false,
            "required": ["action", "outcome"],
            "properties": {
                "id": {"type": "string", "pattern": "^[A-Za-z0-9._:/-]{1,128}$",
                    "description": "Unique in the log; a UUIDv7 where absent. Must not identify a person."},
                "action": {"type": "string", "maxLength": 128, "pattern": "^(?!varve(\\.|$))[a-z0-9_-]+(\\.[a-z0-9_-]+)*$",
                    "description": "Dotted lower case, not under `varve.`."},
                "outcome": {"type": "string", "enum": ["success", "failure", "denied", "unknown"]},
                "occurred_at": {"type": "string", "format": "date-time", "description": "When it happened, as the producer claims."},
                "class": {"type": "string", "enum": ["security", "processing", "privacy-request", "long-evidence"],
                    "description": "Retention class."},
                "producer": {
                    "type": "object", "additionalProperties": false, "required": ["service"],
                    "properties": {"service": label(), "instance": label(), "seq": {"type": "integer", "minimum": 1, "maximum": 9_007_199_254_740_991_u64}},
                    "dependentRequired": {"seq": ["instance"]},
                },
                "actor": {
                    "type": "object", "additionalProperties": false, "required": ["id"],
                    "properties": {"type": label(), "id": required_text(), "name": text(), "email": text()},
                },
                "targets": {
                    "type": "array", "maxItems": 32,
                    "items": {"type": "object", "additionalProperties": false,
                        "properties": {"type": label(), "id": required_text(), "name": text()}},
                },
                "context": {
                    "type": "object", "additionalProperties": false,
                    "properties": {"ip": text(), "user_agent": text(), "country": text(), "session_id": text(),
                        "request_id": text(), "trace_id": text(), "case_id": text()},
                },
                "changes": {
                    "type": "array",
                    "items": {"type": "object", "additionalProperties": false, "required": ["field"],
                        "properties": {"field": required_text(), "from": {}, "to": {}}},
                },
                "reason": {"type": "string"},
                "metadata": {"type": "object"},
            },
        })
    }
}

/// A record (contract: `GET …/events/{index}`).
pub(crate) struct AnyRecord;

impl JsonSchema for AnyRecord {
    fn schema_name() -> Cow<'static, str> {
        "Record".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let disclosure = generator.subschema_for::<crate::service::DisclosureView>();
        json_schema!({
            "type": "object",
            "required": ["index", "recorded_at", "link", "signature", "key_id", "body", "event"],
            "properties": {
                "index": {"type": "integer", "minimum": 0},
                "recorded_at": {"type": "string", "format": "date-time"},
                "link": {"type": "string", "description": "32 bytes, base64url."},
                "signature": {"type": "string", "description": "64 bytes, base64url."},
                "key_id": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
                "body": {"type": "string", "enum": ["present", "expired", "erased"]},
                "event": {"type": ["object", "null"],
                    "description": "As it was posted, with `id` and `class`; an erased value shows its commitment."},
                "entry": {"type": "string", "description": "124 bytes, base64url; with `verifiable=true`."},
                "canonical": {"type": "string", "description": "The exact bytes hashed; with `verifiable=true`."},
                "salt": {"type": "string", "description": "16 bytes, base64url; with `verifiable=true`."},
                "disclosures": {"type": "array", "items": disclosure},
            },
        })
    }
}
