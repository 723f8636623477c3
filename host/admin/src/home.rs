//! The page at `/`: what this host is, what it does, and its alerts as they come.
//!
//! Plain HTML that says the same without scripts; nothing is loaded from elsewhere, and what comes from outside is escaped.
//! With keys configured it lists nothing (a browser sends no key); the script asks for one to show alerts.

use std::fmt::{self, Write};

use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::access::Caller;
use crate::options::Role;
use crate::problem::Problem;
use crate::state::App;
use crate::{plugins, streams};

/// What the page may load: our own style and script, and our own API.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(crate) async fn show(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    let may_look = caller.need(Role::Read).is_ok();
    let streams = streams::visible(&app, &caller).await?;
    let plugins: Vec<_> = plugins::visible(&app, &caller).collect();
    let mut page = String::with_capacity(8 << 10);
    // Writing to a string cannot fail.
    write_page(&mut page, may_look, &streams, &plugins).ok();
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    Ok((headers, page).into_response())
}

/// The page's style.
pub(crate) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("home/page.css"))
}

/// The page's script.
pub(crate) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("home/page.js"))
}

fn write_page(
    page: &mut String,
    may_look: bool,
    streams: &[streams::Stream],
    plugins: &[plugins::Plugin],
) -> fmt::Result {
    page.push_str(HEAD);
    write!(page, "<p class=quiet>version {}</p>", env!("CARGO_PKG_VERSION"))?;
    if may_look {
        write_streams(page, streams)?;
        write_plugins(page, plugins)?;
    } else {
        page.push_str("<p>This host wants a key: send it as <code>X-API-Key</code>.</p>");
    }
    page.push_str(TAIL);
    Ok(())
}

fn write_streams(page: &mut String, streams: &[streams::Stream]) -> fmt::Result {
    page.push_str(
        "<h2>Streams</h2><table><tr><th>stream<th>state<th class=number>received<th class=number>delivered\
        <th class=number>alerts<th class=number>letters<th class=number>dropped<th class=number>behind</tr>",
    );
    for stream in streams {
        let counts = &stream.counts;
        let letters = counts.gate_letters
            + counts.enrich_letters
            + counts.detect_letters
            + counts.deliver_letters
            + counts.halt_letters
            + counts.order_letters;
        write!(page, "<tr><td>{}<td>{}", Escaped(&stream.id), stream.state)?;
        if let Some(detail) = &stream.detail {
            write!(page, "<br><span class=bad>{}</span>", Escaped(detail))?;
        }
        for number in [counts.received, counts.delivered, counts.alerts, letters, counts.dropped, stream.lag.records] {
            write!(page, "<td class=number>{number}")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    Ok(())
}

fn write_plugins(page: &mut String, plugins: &[plugins::Plugin]) -> fmt::Result {
    page.push_str("<h2>Plugins</h2>");
    if plugins.is_empty() {
        page.push_str(
            "<p>There is none yet. Copy a <code>.wasm</code> to \
            <code>&lt;plugins-dir&gt;/&lt;tenant&gt;/&lt;stream&gt;/&lt;name&gt;.wasm</code>: it judges a moment later.</p>",
        );
        return Ok(());
    }
    page.push_str(
        "<table><tr><th>plugin<th>state<th>version<th class=number>judged<th class=number>findings\
        <th class=number>failed</tr>",
    );
    for plugin in plugins {
        write!(page, "<tr><td>{}<td>{}", Escaped(&plugin.id), plugin.state)?;
        if let Some(refusal) = &plugin.refusal {
            let code = Escaped(&refusal.code);
            let message = Escaped(&refusal.message);
            write!(page, "<br><span class=bad><a href=\"/errors/{code}\">{code}</a> {message}</span>")?;
        }
        let version = plugin.active.as_ref().map_or("none", |active| &active.version);
        write!(page, "<td>{}", Escaped(version))?;
        for number in [plugin.counts.judged, plugin.counts.findings, plugin.counts.failed] {
            write!(page, "<td class=number>{number}")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    Ok(())
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8><title>Phronis</title>\
    <meta name=viewport content=\"width=device-width\"><link rel=stylesheet href=\"/page.css\">\
    <h1>Phronis</h1><p>A stream processor that is programmed with WebAssembly plugins. \
    <a href=\"/openapi.json\">API</a> · <a href=\"/metrics\">metrics</a> · <a href=\"/readyz\">health</a></p>";

const TAIL: &str = "<h2>Alerts</h2><noscript><p>Alerts as they come:</p></noscript>\
    <pre>curl -N localhost:8000/v1/events</pre>\
    <div id=live hidden><p id=told class=quiet>connecting</p>\
    <form id=key-form hidden><label>Key <input id=key type=password autocomplete=off></label> <button>Listen</button></form>\
    <table><thead><tr><th>when<th>severity<th>plugin<th>key<th>what</thead><tbody id=alerts></tbody></table></div>\
    <script src=\"/page.js\"></script></html>";

/// A text as HTML, in elements and in quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Terminal escapes and bidirectional overrides have no business on a page.
                c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                    write!(f, "{}", c.escape_unicode())?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_come_out_as_text() {
        let text = Escaped("<script>\"'&\u{1b}[31m\u{202e}").to_string();
        assert_eq!(text, "&lt;script&gt;&quot;&#39;&amp;\\u{1b}[31m\\u{202e}");
    }

    #[test]
    fn without_a_key_the_page_names_nothing() {
        let mut page = String::new();
        write_page(&mut page, false, &[], &[]).unwrap();
        assert!(page.contains("wants a key") && !page.contains("<h2>Streams"));
    }
}
