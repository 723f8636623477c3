//! All routes, grouped by what they need, and the order of the layers around them.

use axum::http::{Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use phronis_core::code;
use serde_json::Value;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::state::App;
use crate::{
    access, agents, archive, audit, breakers, browser, events, health, home, hosts, letters, live, observe, once,
    openapi, pages, plugins, problem, query, records, redrives, streams, topics,
};

/// Routes that look themselves at who asks: nothing in them holds bytes of events.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(openapi::show))
        .routes(routes!(pages::show))
        .routes(routes!(agents::list))
        .routes(routes!(agents::stream::follow))
        .routes(routes!(agents::show))
        .routes(routes!(agents::status))
        .routes(routes!(agents::history))
        .routes(routes!(breakers::list))
        .routes(routes!(breakers::show))
        .routes(routes!(breakers::glance))
        .route("/", axum::routing::get(home::show))
        .route("/page.css", axum::routing::get(home::style))
        .route("/page.js", axum::routing::get(home::script))
}

fn read() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(streams::list))
        .routes(routes!(streams::show))
        .routes(routes!(streams::schema))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::show))
        .routes(routes!(hosts::list))
        .routes(routes!(audit::list))
        .routes(routes!(topics::list))
        .routes(routes!(records::read))
        .routes(routes!(live::follow))
        .routes(routes!(letters::classes))
        .routes(routes!(letters::list))
        .routes(routes!(letters::show))
        .routes(routes!(letters::dry_run::dry_run))
        .routes(routes!(redrives::list))
        .routes(routes!(redrives::show))
        .routes(routes!(archive::tables))
        .routes(routes!(archive::table))
        .routes(routes!(archive::snapshots))
        .routes(routes!(query::ask))
        .route_layer(from_fn(access::needs_read))
}

fn write() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(events::post))
        .routes(routes!(events::post_default))
        .routes(routes!(events::post_state))
        .route_layer(from_fn(access::needs_write))
}

fn operate() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(agents::change::halt))
        .routes(routes!(agents::change::reset))
        .routes(routes!(agents::change::halt_tenant))
        .routes(routes!(agents::change::reset_tenant))
        .routes(routes!(agents::change::halt_named))
        .routes(routes!(agents::change::reset_named))
        .route_layer(from_fn(once::once))
        .route_layer(from_fn(access::needs_operator))
}

fn admin() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(plugins::change::put_params))
        .routes(routes!(plugins::change::put_limits))
        .routes(routes!(redrives::start))
        .routes(routes!(redrives::cancel))
        .routes(routes!(redrives::discard))
        .routes(routes!(redrives::edit))
        .routes(routes!(plugins::change::put_breaker))
        .routes(routes!(breakers::put_override, breakers::delete_override))
        .route_layer(from_fn(once::once))
        .route_layer(from_fn(access::needs_admin))
}

/// The routes, and their description.
pub(crate) fn all() -> (OpenApiRouter<App>, Value) {
    let mut routes = open().merge(read()).merge(write()).merge(operate()).merge(admin());
    let description = serde_json::to_value(routes.to_openapi()).unwrap_or_default();
    (routes, description)
}

/// The routes with the layers around them. A request meets them from the last to the first.
pub(crate) fn layered(routes: OpenApiRouter<App>, app: &App) -> Router {
    let (router, _) = routes.split_for_parts();
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        // What is laid around routes is made before the app, and finds it here.
        .layer(Extension(app.clone()))
        .layer(from_fn_with_state(app.clone(), access::identify))
        .layer(from_fn_with_state(app.clone(), browser::guard))
        .layer(from_fn(problem::render))
        .layer(from_fn(browser::secure))
        .layer(from_fn(observe::observe))
        .with_state(app.clone())
}

async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format_args!("path `{}`", uri.path())).hint("`GET /openapi.json` lists the paths")
}

async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(code::METHOD_NOT_ALLOWED, format!("`{}` does not know {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_description_lists_these_paths() {
        let (_, description) = all();
        let mut listed = String::new();
        let paths: BTreeMap<_, _> = description["paths"].as_object().unwrap().iter().collect();
        for (path, item) in paths {
            for method in ["get", "put", "post", "delete"].iter().filter(|method| item.get(**method).is_some()) {
                listed.push_str(&format!("{} {path}\n", method.to_uppercase()));
            }
        }
        assert_eq!(listed, include_str!("../tests/golden/paths.txt"));
        assert_eq!(description["openapi"], "3.1.0");
    }

    #[test]
    fn every_reference_of_the_description_leads_somewhere() {
        fn check(value: &Value, whole: &Value) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        let found = whole.pointer(reference.trim_start_matches('#'));
                        assert!(found.is_some(), "{reference}");
                    }
                    members.values().for_each(|value| check(value, whole));
                }
                Value::Array(items) => items.iter().for_each(|value| check(value, whole)),
                _ => {}
            }
        }
        let (_, description) = all();
        check(&description, &description);
    }
}
