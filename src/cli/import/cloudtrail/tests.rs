//! The mapping, on made records one fault each and on 2,900 real ones.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::cli::output::Failure;

fn mapped(record: &Value) -> Value {
    serde_json::from_str(&event(record.to_string().as_bytes()).unwrap()).unwrap()
}

fn record() -> Value {
    json!({"eventVersion": "1.08", "userIdentity": {"type": "IAMUser", "principalId": "AIDA", "arn": "arn:aws:iam::1:user/a",
            "accountId": "1", "userName": "a"},
        "eventTime": "2023-07-10T11:42:31Z", "eventSource": "s3.amazonaws.com",
        "eventName": "GetBucketPublicAccessBlock", "awsRegion": "us-east-1", "sourceIPAddress": "AWS Internal",
        "userAgent": "ua", "requestParameters": {"bucketName": "b", "Host": "h"}, "responseElements": null,
        "requestID": "R1", "eventID": "e-1", "readOnly": true})
}

fn with(pointer: &str, value: Value) -> Value {
    let mut record = record();
    record[pointer] = value;
    record
}

#[test]
fn a_record_becomes_an_event() {
    let mut expected = json!({"id": "e-1", "action": "aws.s3.get_bucket_public_access_block", "outcome": "success",
        "occurred_at": "2023-07-10T11:42:31Z",
        "actor": {"type": "iam_user", "id": "arn:aws:iam::1:user/a", "name": "a"},
        "targets": [{"type": "aws.s3.bucket", "id": "b"}],
        "context": {"ip": "AWS Internal", "user_agent": "ua", "request_id": "R1"}});
    expected["metadata"] = record();
    assert_eq!(mapped(&record()), expected);
}

#[test]
fn the_record_travels_byte_for_byte() {
    let text = record().to_string().replacen('{', "{ \"n\": 1.50, \"s\": \"\\u0041\",", 1);
    let event = event(text.as_bytes()).unwrap();
    assert!(event.ends_with(&format!("\"metadata\":{text}}}")), "{event}");
}

#[test]
fn names_become_snake_case() {
    for (name, expected) in [
        ("ConsoleLogin", "console_login"),
        ("GetCallerIdentity", "get_caller_identity"),
        ("DescribeDBInstances", "describe_db_instances"),
        ("DescribeDBClusterParameterGroups", "describe_db_cluster_parameter_groups"),
        ("ListMFADevices", "list_mfa_devices"),
        ("ListSSHPublicKeys", "list_ssh_public_keys"),
        ("GetBucketAcl", "get_bucket_acl"),
        ("DescribeVpcs", "describe_vpcs"),
        ("ListVPCs", "list_vpcs"),
        ("CreateIPSet", "create_ip_set"),
        ("DeleteDBs", "delete_dbs"),
        ("GetIDsForUser", "get_ids_for_user"),
        ("Decrypt", "decrypt"),
        ("AddPermission20150331v2", "add_permission20150331v2"),
        ("ListOpenIDConnectProviders", "list_open_id_connect_providers"),
        ("AssumeRoleWithSAML", "assume_role_with_saml"),
        ("REST.GET.OBJECT", "rest_get_object"),
        ("AWSService", "aws_service"),
        ("Root", "root"),
        ("Ünder Score-x", "nder_score_x"),
    ] {
        assert_eq!(snake_case(name), expected, "{name}");
    }
}

#[test]
fn services_keep_their_name() {
    assert_eq!(service("signin.amazonaws.com"), "signin");
    assert_eq!(service("resource-explorer-2.amazonaws.com"), "resource_explorer_2");
    assert_eq!(service("ec2.amazonaws.com.cn"), "ec2");
    assert_eq!(service("events.example.org"), "events.example.org");
}

#[test]
fn outcomes_tell_denied_from_failed() {
    for code in [
        "AccessDenied",
        "AccessDeniedException",
        "Client.UnauthorizedOperation",
        "S3.AccessDenied",
        "UnauthorizedAccess",
        "NotAuthorizedException",
    ] {
        assert_eq!(mapped(&with("errorCode", json!(code)))["outcome"], "denied", "{code}");
    }
    for code in ["NoSuchBucketPolicy", "ThrottlingException", "Client.InvalidVpcID.NotFound", ""] {
        assert_eq!(mapped(&with("errorCode", json!(code)))["outcome"], "failure", "{code}");
    }
    assert_eq!(mapped(&with("responseElements", json!({"ConsoleLogin": "Failure"})))["outcome"], "failure");
    assert_eq!(mapped(&with("responseElements", json!({"ConsoleLogin": "Success"})))["outcome"], "success");
}

#[test]
fn actors_are_named_by_the_best_there_is() {
    let actor = |identity: Value| mapped(&with("userIdentity", identity))["actor"].clone();
    let role = json!({"type": "AssumedRole", "principalId": "P:s", "arn": "arn:aws:sts::1:assumed-role/r/s",
        "sessionContext": {"sessionIssuer": {"userName": "r"}}});
    assert_eq!(
        actor(role),
        json!({"type": "assumed_role", "id": "arn:aws:sts::1:assumed-role/r/s", "name": "r"})
    );
    let service = json!({"type": "AWSService", "invokedBy": "rds.amazonaws.com"});
    assert_eq!(actor(service), json!({"type": "aws_service", "id": "rds.amazonaws.com"}));
    let untyped = json!({"accountId": "1", "invokedBy": "ec2.amazonaws.com"});
    assert_eq!(actor(untyped), json!({"type": "aws_service", "id": "ec2.amazonaws.com"}));
    let root = json!({"type": "Root", "principalId": "1", "arn": "", "accountId": "1"});
    assert_eq!(actor(root), json!({"type": "root", "id": "1"}));
    assert_eq!(actor(json!({"accountId": "1"})), json!({"type": "unknown", "id": "1"}));
    assert_eq!(actor(json!({"type": "IAMUser"})), Value::Null);
    assert_eq!(actor(Value::Null), Value::Null);
}

#[test]
fn targets_come_from_resources_or_else_from_parameters() {
    let of = |record: Value| mapped(&record)["targets"].clone();
    let resources = json!([{"ARN": "arn:aws:kms:e:1:key/k", "type": "AWS::KMS::Key"}, {"ARN": "arn:aws:kms:e:1:key/k",
        "type": "AWS::KMS::Key"}, {"ARN": "arn:aws:ssm:e:1:parameter/p"}, {"accountId": "1"}]);
    assert_eq!(
        of(with("resources", resources)),
        json!([{"type": "aws.kms.key", "id": "arn:aws:kms:e:1:key/k"}, {"type": "aws.ssm.parameter", "id": "arn:aws:ssm:e:1:parameter/p"}])
    );
    let instances =
        json!({"instancesSet": {"items": [{"instanceId": "i-1"}, {"instanceId": "i-2"}]}, "vpcId": ""});
    assert_eq!(
        of(with("requestParameters", instances)),
        json!([{"type": "aws.ec2.instance", "id": "i-1"}, {"type": "aws.ec2.instance", "id": "i-2"}])
    );
    assert_eq!(of(with("requestParameters", json!({"instanceIds": ["i-1"]})))[0]["id"], "i-1");
    assert_eq!(of(with("requestParameters", Value::Null)), Value::Null);
    let many: Vec<String> = (0..40).map(|at| format!("i-{at}")).collect();
    assert_eq!(of(with("requestParameters", json!({"instanceIds": many}))).as_array().unwrap().len(), 32);
    assert_eq!(kind_of_arn("arn:aws:s3:::bucket"), "aws.s3");
    assert_eq!(kind_of_arn("arn:aws:rds:e:1:snapshot:x"), "aws.rds.snapshot");
    assert_eq!(kind_of_arn("nonsense"), "aws.resource");
}

#[test]
fn what_would_be_rounded_or_is_no_record_is_refused() {
    let reason = |text: &str| event(text.as_bytes()).unwrap_err();
    let large = |number: &str| {
        let record = with("additionalEventData", json!({"bytesTransferredOut": "N"}));
        event(record.to_string().replace("\"N\"", number).as_bytes())
    };
    for fits in ["9007199254740991", "-9007199254740991", "1.5", "1e15"] {
        assert!(large(fits).is_ok(), "{fits}");
    }
    for rounded in
        ["9007199254740992", "-9007199254740993", "18446744073709551616", "1e16", "99999999999999999999"]
    {
        let expected =
            "invalid_event: a number is over 2^53 - 1 (at /metadata/additionalEventData/bytesTransferredOut)";
        assert_eq!(large(rounded).unwrap_err(), expected, "{rounded}");
    }
    for member in ["eventID", "eventName", "eventSource", "eventTime"] {
        for value in [Value::Null, json!(7), json!("")] {
            let text = with(member, value).to_string();
            assert_eq!(
                reason(&text),
                format!("invalid_event: this is no CloudTrail record: `{member}` is missing")
            );
        }
    }
    assert!(
        reason("{\"eventID\":\"secret").starts_with("bad_request")
            && !reason("{\"eventID\":\"secret").contains("secret")
    );
    assert!(event(b"{\"eventID\":\"\xff\"}").is_err());
}

/// The real records, or `None` with a loud line where they are not at hand.
fn real_files() -> Option<Vec<PathBuf>> {
    let places = ["../shared/data/cloudtrail", "../../shared/data/cloudtrail"];
    let Some(listing) = places.iter().find_map(|place| std::fs::read_dir(Path::new(place)).ok()) else {
        // Not `eprintln!`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {} is not there; the mapping was not tried on real records",
            places[0]
        );
        return None;
    };
    let mut files: Vec<PathBuf> = listing
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|x| x == "gz"))
        .collect();
    files.sort();
    Some(files)
}

#[test]
fn the_real_records_map_as_counted_by_hand() {
    let Some(files) = real_files() else { return };
    assert_eq!(files.len(), 55);
    let (mut ids, mut counts) = (HashSet::new(), HashMap::<String, u64>::new());
    let mut with_targets = 0;
    for file in &files {
        let input = Input::open(file.to_str().unwrap()).unwrap();
        let outcome = read(input, &mut |record| {
            let (_, text) = record.map_err(|(origin, reason)| panic!("{origin}: {reason}")).unwrap();
            let event: Value = serde_json::from_str(text).unwrap();
            let member =
                |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
            assert!(ids.insert(member("/id")));
            assert!(text.len() <= 8 * 1024, "{} bytes", text.len());
            let action = member("/action");
            assert!(
                action
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._".contains(&byte))
            );
            for key in [
                action.clone(),
                format!("{action} {}", member("/outcome")),
                member("/outcome"),
                format!("ip {}", member("/context/ip")),
                format!("actor {}", member("/actor/type")),
            ] {
                *counts.entry(key).or_default() += 1;
            }
            assert_ne!(member("/actor/id"), "-");
            with_targets += u64::from(event.pointer("/targets/0").is_some());
            Ok(())
        });
        outcome.map_err(Failure::from).unwrap();
    }
    assert_eq!(ids.len(), 2900);
    for (key, expected) in [
        ("aws.kms.decrypt", 178),
        ("aws.secretsmanager.get_secret_value", 60),
        ("aws.sts.assume_role", 49),
        ("aws.sts.assume_role denied", 13),
        ("aws.iam.attach_role_policy", 6),
        ("aws.iam.put_role_policy", 5),
        ("aws.signin.console_login", 2),
        ("aws.signin.console_login success", 2),
        ("success", 2600),
        ("denied", 60),
        ("failure", 240),
        ("ip 192.168.10.20", 2154),
        ("ip AWS Internal", 170),
        ("actor iam_user", 2748),
        ("actor assumed_role", 76),
        ("actor aws_service", 76),
    ] {
        assert_eq!(counts.get(key), Some(&expected), "{key}");
    }
    assert_eq!(with_targets, 1465);
}
