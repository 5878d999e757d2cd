//! AWS CloudTrail records as events.
//!
//! | event | record |
//! |---|---|
//! | `id` | `eventID` |
//! | `action` | `aws.<eventSource without .amazonaws.com>.<eventName in snake case>` |
//! | `outcome` | `denied` for an `errorCode` of missing permission, `failure` for another or a failed `ConsoleLogin`, else `success` |
//! | `occurred_at` | `eventTime` |
//! | `actor` | `userIdentity`: `type` in snake case; `id` = `arn`, else `principalId`, `invokedBy`, `accountId`; `name` = `userName`, else that of the session's issuer |
//! | `targets` | `resources`, else the request parameters that name a thing ([`NAMING`]) |
//! | `context` | `sourceIPAddress`, `userAgent`, `requestID` |
//! | `metadata` | the whole record, byte for byte |
//!
//! Because the record travels as it is, nothing is rounded: a number over 2^53 − 1 is a bad record, not another
//! number.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::input::{Input, Place};
use super::{Fault, Sink};

/// Targets of one event (FORMAT §1).
const MAX_TARGETS: usize = 32;

/// Largest number that is the same in every JSON reader: 2^53 − 1 (FORMAT §1).
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Characters of `user_agent`, which CloudTrail cuts at 1 KiB itself; of all texts that an event shows apart.
const MAX_TEXT_CHARS: usize = 2048;

/// Request parameters that name what is acted upon, and the type it has.
const NAMING: [(&str, &str); 38] = [
    ("bucketName", "aws.s3.bucket"),
    ("roleArn", "aws.iam.role"),
    ("roleName", "aws.iam.role"),
    ("userName", "aws.iam.user"),
    ("policyArn", "aws.iam.policy"),
    ("instanceProfileName", "aws.iam.instance_profile"),
    ("accessKeyId", "aws.iam.access_key"),
    ("secretId", "aws.secretsmanager.secret"),
    ("keyId", "aws.kms.key"),
    ("functionName", "aws.lambda.function"),
    ("instanceId", "aws.ec2.instance"),
    ("instanceIds", "aws.ec2.instance"),
    ("instancesSet", "aws.ec2.instance"),
    ("imageId", "aws.ec2.image"),
    ("volumeId", "aws.ec2.volume"),
    ("snapshotId", "aws.ec2.snapshot"),
    ("groupId", "aws.ec2.security_group"),
    ("groupName", "aws.ec2.security_group"),
    ("vpcId", "aws.ec2.vpc"),
    ("subnetId", "aws.ec2.subnet"),
    ("routeTableId", "aws.ec2.route_table"),
    ("internetGatewayId", "aws.ec2.internet_gateway"),
    ("natGatewayId", "aws.ec2.nat_gateway"),
    ("networkInterfaceId", "aws.ec2.network_interface"),
    ("allocationId", "aws.ec2.address"),
    ("keyName", "aws.ec2.key_pair"),
    ("dBInstanceIdentifier", "aws.rds.db_instance"),
    ("dBSnapshotIdentifier", "aws.rds.db_snapshot"),
    ("dBClusterIdentifier", "aws.rds.db_cluster"),
    ("trailName", "aws.cloudtrail.trail"),
    ("logGroupName", "aws.logs.log_group"),
    ("documentName", "aws.ssm.document"),
    ("detectorId", "aws.guardduty.detector"),
    ("trustAnchorId", "aws.rolesanywhere.trust_anchor"),
    ("profileId", "aws.rolesanywhere.profile"),
    ("topicArn", "aws.sns.topic"),
    ("queueUrl", "aws.sqs.queue"),
    ("tableName", "aws.dynamodb.table"),
];

/// Hands every record of `input`, mapped, to `sink`.
pub(in crate::cli) fn read(mut input: Input, sink: &mut Sink<'_>) -> Result<(), Fault> {
    let mut place = Place::Top;
    while let Some(cut) = input.next_object(&mut place)? {
        let mapped = cut.and_then(|(origin, bytes)| match event(&bytes) {
            Ok(event) => Ok((origin, event)),
            Err(reason) => Err((origin, reason)),
        });
        match mapped {
            Ok((origin, event)) => sink(Ok((origin, &event))),
            Err(refused) => sink(Err(refused)),
        }
        .map_err(Fault::Sink)?;
    }
    Ok(())
}

/// The event of one record, as JSON text.
///
/// # Errors
/// Why the record is no event; names members, never values.
pub(super) fn event(record: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(record).map_err(|_| "bad_request: this is not UTF-8".to_owned())?;
    let parsed: Value = serde_json::from_str(text).map_err(|error| {
        format!("bad_request: this is not JSON, line {} column {}", error.line(), error.column())
    })?;
    check_numbers(&parsed, &mut String::new())?;
    let whole: &RawValue =
        serde_json::from_str(text).map_err(|_| "bad_request: this is not JSON".to_owned())?;
    let member = |name: &str| {
        let found = parsed.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        found.ok_or_else(|| format!("invalid_event: this is no CloudTrail record: `{name}` is missing"))
    };
    let optional =
        |name: &str| parsed.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(cut);
    let (source, name) = (member("eventSource")?, member("eventName")?);
    let event = Event {
        id: member("eventID")?,
        action: format!("aws.{}.{}", service(source), snake_case(name)),
        outcome: outcome(&parsed),
        occurred_at: member("eventTime")?,
        actor: parsed.get("userIdentity").and_then(actor),
        targets: targets(&parsed),
        context: Context {
            ip: optional("sourceIPAddress"),
            user_agent: optional("userAgent"),
            request_id: optional("requestID"),
        },
        metadata: whole,
    };
    serde_json::to_string(&event).map_err(|_| "invalid_event: the record cannot be written".to_owned())
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    action: String,
    outcome: &'static str,
    occurred_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<Actor<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    targets: Vec<Target<'a>>,
    context: Context<'a>,
    metadata: &'a RawValue,
}

#[derive(Serialize)]
struct Actor<'a> {
    r#type: String,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize, PartialEq, Eq, Debug)]
struct Target<'a> {
    r#type: String,
    id: &'a str,
}

#[derive(Serialize)]
struct Context<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

fn outcome(record: &Value) -> &'static str {
    if let Some(code) = record.get("errorCode").and_then(Value::as_str) {
        let code = code.to_ascii_lowercase();
        let is_denied =
            ["accessdenied", "unauthorized", "notauthorized"].iter().any(|word| code.contains(word));
        return if is_denied { "denied" } else { "failure" };
    }
    let login = record.pointer("/responseElements/ConsoleLogin").and_then(Value::as_str);
    if login == Some("Failure") { "failure" } else { "success" }
}

fn actor(identity: &Value) -> Option<Actor<'_>> {
    let text =
        |pointer: &str| identity.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let id = ["/arn", "/principalId", "/invokedBy", "/accountId"].into_iter().find_map(text)?;
    // Calls that a service makes for an account come without a type.
    let kind = match text("/type") {
        Some(kind) => snake_case(kind),
        None if text("/invokedBy").is_some() => "aws_service".to_owned(),
        None => "unknown".to_owned(),
    };
    let name = text("/userName").or_else(|| text("/sessionContext/sessionIssuer/userName"));
    Some(Actor { r#type: kind, id: cut(id), name: name.map(cut) })
}

fn targets(record: &Value) -> Vec<Target<'_>> {
    let mut found = Vec::new();
    for resource in record.get("resources").and_then(Value::as_array).into_iter().flatten() {
        let Some(arn) = resource.get("ARN").and_then(Value::as_str).filter(|arn| !arn.is_empty()) else {
            continue;
        };
        let kind = match resource.get("type").and_then(Value::as_str) {
            Some(kind) => kind.split("::").map(snake_case).collect::<Vec<_>>().join("."),
            None => kind_of_arn(arn),
        };
        push(&mut found, kind, arn);
    }
    if !found.is_empty() {
        return found;
    }
    let Some(parameters) = record.get("requestParameters").and_then(Value::as_object) else { return found };
    for (name, kind) in NAMING {
        let Some(value) = parameters.get(name) else { continue };
        for id in names(value) {
            push(&mut found, kind.to_owned(), id);
        }
    }
    found
}

fn push<'a>(targets: &mut Vec<Target<'a>>, kind: String, id: &'a str) {
    let target = Target { r#type: kind, id: cut(id) };
    if targets.len() < MAX_TARGETS && !targets.contains(&target) {
        targets.push(target);
    }
}

/// The names in a parameter: a text, a list of texts, or EC2's `{"items":[{"instanceId":…}]}`.
fn names(value: &Value) -> Vec<&str> {
    let texts = match value {
        Value::String(text) => vec![text.as_str()],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        Value::Object(set) => {
            let items = set.get("items").and_then(Value::as_array);
            items.into_iter().flatten().filter_map(|item| item.get("instanceId")?.as_str()).collect()
        }
        _ => Vec::new(),
    };
    texts.into_iter().filter(|text| !text.is_empty()).collect()
}

/// `arn:aws:ssm:us-east-1:1:parameter/x` names an `aws.ssm.parameter`.
fn kind_of_arn(arn: &str) -> String {
    let mut parts = arn.splitn(6, ':').skip(2);
    let service = parts.next().unwrap_or_default();
    let resource = parts.nth(2).unwrap_or_default();
    let kind =
        resource.split(['/', ':']).next().filter(|kind| kind.len() < resource.len()).unwrap_or_default();
    match (plain(service).as_str(), plain(kind).as_str()) {
        ("", _) => "aws.resource".to_owned(),
        (service, "") => format!("aws.{service}"),
        (service, kind) => format!("aws.{service}.{kind}"),
    }
}

/// `resource-explorer-2.amazonaws.com` is the service `resource_explorer_2`.
fn service(source: &str) -> String {
    let name = source.strip_suffix(".cn").unwrap_or(source);
    plain(name.strip_suffix(".amazonaws.com").unwrap_or(name))
}

/// Lower case letters, digits, `_` and inner dots; every other run of characters becomes one `_`.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            'a'..='z' | '0'..='9' => out.push(character),
            'A'..='Z' => out.push(character.to_ascii_lowercase()),
            '.' if !out.is_empty() && !out.ends_with('.') => out.push('.'),
            _ if !out.is_empty() && !out.ends_with('_') => out.push('_'),
            _ => {}
        }
    }
    out.trim_end_matches(['.', '_']).to_owned()
}

/// `DescribeDBInstances` is `describe_db_instances`: a new word starts at a capital after a small letter or digit,
/// and at the last capital of a run when a small letter follows, unless that letter is a plural `s` (`ListVPCs`).
fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::with_capacity(name.len() + 8);
    for (at, letter) in letters.iter().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            let before = letters[at - 1];
            let after = letters.get(at + 1);
            let after_that = letters.get(at + 2);
            let is_plural = after == Some(&'s') && after_that.is_none_or(char::is_ascii_uppercase);
            let ends_acronym =
                before.is_ascii_uppercase() && after.is_some_and(char::is_ascii_lowercase) && !is_plural;
            if before.is_ascii_lowercase() || before.is_ascii_digit() || ends_acronym {
                out.push('_');
            }
        }
        out.push(*letter);
    }
    plain(&out).replace('.', "_")
}

/// What an event can hold of a text; the whole stands in the metadata.
fn cut(text: &str) -> &str {
    match text.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Refuses numbers that other readers of JSON would round.
fn check_numbers(value: &Value, pointer: &mut String) -> Result<(), String> {
    let length = pointer.len();
    match value {
        Value::Number(number) => {
            let is_exact = match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => number <= MAX_NUMBER,
                (_, Some(number), _) => number.unsigned_abs() <= MAX_NUMBER,
                (_, _, Some(number)) => number.abs() <= MAX_NUMBER as f64,
                _ => false,
            };
            if !is_exact {
                return Err(format!("invalid_event: a number is over 2^53 - 1 (at /metadata{pointer})"));
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{at}"));
                check_numbers(item, pointer)?;
                pointer.truncate(length);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                pointer.push('/');
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                check_numbers(member, pointer)?;
                pointer.truncate(length);
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
