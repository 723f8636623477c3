//! The API's description: `GET /openapi.json`, generated from the handlers, with the event schemas of the streams.

use axum::extract::{Extension, State};
use axum::response::Json;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::access::Caller;
use crate::agents::Changed;
use crate::plugins::change::Applied;
use crate::problem::Problem;
use crate::state::App;
use crate::streams;

/// What the description says besides the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Phronis",
        description = "A stream processor that is programmed with WebAssembly plugins.\n\n\
            Errors are problem documents (RFC 9457) with a stable `code`; each code has a page at `/errors/{code}`.",
    ),
    tags(
        (name = "events", description = "events in, live events out"),
        (name = "streams", description = "what flows"),
        (name = "plugins", description = "what judges, and its settings"),
        (name = "audit", description = "who changed what, when and why"),
        (name = "letters", description = "what failed, and what is done about it"),
        (name = "agents", description = "who may act: halts and resets"),
        (name = "breakers", description = "what is left alone because it fails"),
        (name = "topics", description = "what is in the log"),
        (name = "archive", description = "what passed through, for ever"),
        (name = "health", description = "how the host is, and which others there are"),
    ),
    components(schemas(Applied, Changed)),
    modifiers(&Keys),
)]
pub(crate) struct Description;

struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("key", key);
        components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The description, with the event schemas of the streams that the caller sees.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health",
    responses((status = 200, description = "an OpenAPI 3.1 document", body = serde_json::Value)),
)]
pub(crate) async fn show(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Json<Value>, Problem> {
    let mut document = app.openapi.clone();
    let mut references = Vec::new();
    let mut schemas = Map::new();
    for stream in streams::visible(&app, &caller).await? {
        let id = streams::parse(&stream.id)?;
        let Some(contract) = app.pipeline.contract(&id) else { continue };
        let name = format!("event.{id}");
        references.push(json!({ "$ref": format!("#/components/schemas/{name}") }));
        schemas.insert(name, contract.json_schema());
    }
    if let Some(Value::Object(known)) = document.pointer_mut("/components/schemas") {
        known.extend(schemas);
    }
    let body = "/paths/~1v1~1streams~1{stream}~1events/post/requestBody/content/application~1json";
    if let Some(Value::Object(content)) = document.pointer_mut(body)
        && !references.is_empty()
    {
        let one = json!({ "anyOf": references });
        content.insert("schema".to_owned(), json!({ "anyOf": [one, { "type": "array", "items": one }] }));
    }
    Ok(Json(document))
}
