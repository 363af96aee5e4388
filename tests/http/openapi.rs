//! The OpenAPI document against a gateway that answers: its parameters, and the answers that it promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::util;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use util::{Api, Gateway};

/// What a `$ref` stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let place = value["$ref"].as_str().map(|place| place.trim_start_matches('#'));
    place.map_or(value, |place| document.pointer(place).unwrap())
}

/// Fails the test unless a value is what a schema says, as far as this document uses schemas.
#[track_caller]
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolved(document, schema);
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_kind = |known: &Value| known == kind;
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is_kind),
        one => is_kind(one),
    };
    assert!(fits, "{place}: {value} is no {}", schema["type"]);
    let is_one = |all: &Vec<Value>| all.contains(value);
    assert!(schema["enum"].as_array().is_none_or(is_one), "{place}: {value}");
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{place}: no {name} in {value}");
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(name) {
            Some(schema) => check(document, schema, member, &format!("{place}.{name}")),
            None => assert!(schema["properties"].is_null(), "{place}: {name} is not described"),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item, &format!("{place}[]"));
    }
}

#[test]
fn the_answers_and_parameters_of_messages_and_sessions_are_those_of_the_document() {
    let gateway = Gateway::start();
    let api = gateway.api();
    assert_eq!(Api::new(gateway.address(), "").get("/openapi.json").status(), 401);
    let document = api.get("/openapi.json").assert_status(200).json();
    assert_eq!(document["openapi"], "3.1.0");
    let id = api.accepted("s", "x");
    api.reply(&id);
    let named = |path: &str| path.replace("{session}", "s").replace("{id}", &id);
    let (mut answers, mut lists) = (0, 0);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let scope = &operations["get"]["security"][0]["key"][0];
        if !path.starts_with("/v1/") || !["messages", "status"].iter().any(|it| scope == it) {
            continue;
        }
        let operation = &operations["get"];
        if operation["operationId"] != "events" {
            let told = api.get(&named(path)).assert_status(200).json();
            let answer = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if path != "/v1/status" {
                check(&document, answer, &told, path);
            }
            answers += 1;
        }
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let query = parameters.iter().map(|parameter| resolved(&document, parameter));
        let query = query.filter(|parameter| parameter["in"] == "query");
        let mut names: BTreeSet<&str> = query.map(|it| it["name"].as_str().unwrap()).collect();
        // The one that stands for a key.
        names.extend(operation["security"].get(1).map(|_| "ticket"));
        if !names.is_empty() {
            let error = api.get(&format!("{}?other=1", named(path))).error(400);
            let (_, taken) =
                error.split_once("takes ").unwrap_or_else(|| panic!("{path}: {error}"));
            let taken = taken.split(", each").next().unwrap().split(", ");
            assert_eq!(names, taken.collect(), "{path}");
            lists += 1;
        }
    }
    assert_eq!((answers, lists), (7, 7));
    let wrong = api.post("/v1/messages", &json!({})).assert_status(400).json();
    check(&document, &json!({ "$ref": "#/components/schemas/Error" }), &wrong, "an error");
}
