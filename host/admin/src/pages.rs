//! The pages of `docs/errors`, inside of the binary: for `GET /errors/{code}`, the hints of problem documents,
//! and `phronis explain`.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use phronis_core::Code;

use crate::problem::Problem;

macro_rules! pages {
    ($($code:literal)*) => {
        /// Every page, by code.
        const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md")))),*];
    };
}

pages! {
    "PH0101" "PH0102" "PH0103" "PH0104" "PH0105" "PH0106"
    "PH1001" "PH1002" "PH1003" "PH1004" "PH1005" "PH1006" "PH1007" "PH1008" "PH1009" "PH1010" "PH1011" "PH1012" "PH1013"
    "PH2001" "PH2002" "PH2003" "PH2004" "PH2005" "PH2006" "PH2007"
    "PH2101" "PH2102" "PH2103" "PH2104" "PH2105" "PH2106" "PH2107" "PH2108" "PH2109" "PH2110" "PH2111" "PH2112" "PH2113"
    "PH2201" "PH2202" "PH2203"
    "PH2301" "PH2302" "PH2303" "PH2304" "PH2305" "PH2306"
    "PH2401" "PH2402" "PH2403" "PH2404" "PH2405" "PH2406"
    "PH3001" "PH3002" "PH3003" "PH3004" "PH3005" "PH3006" "PH3007" "PH3008"
    "PH4001" "PH4002" "PH4003" "PH4004" "PH4005" "PH4006" "PH4007" "PH4008" "PH4009" "PH4010" "PH4011" "PH4012" "PH4013"
    "PH4014" "PH4015" "PH4016" "PH4017"
    "PH4201" "PH4202" "PH4203" "PH4204"
    "PH5001" "PH5002" "PH5003" "PH5004" "PH5005" "PH5006"
    "PH6001" "PH6002" "PH6003" "PH6004" "PH6005" "PH6006" "PH6007" "PH6008"
    "PH6020" "PH6021" "PH6022" "PH6023" "PH6024" "PH6025"
    "PH6040" "PH6041" "PH6042"
    "PH6060" "PH6061" "PH6062" "PH6063" "PH6064" "PH6065" "PH6066" "PH6067" "PH6068" "PH6069" "PH6070" "PH6071" "PH6072"
    "PH6080" "PH6081" "PH6082"
}

/// The heading of a page under which the hint stands.
const WHAT_TO_DO: &str = "\n## What to do\n\n";

/// Explains a code.
#[utoipa::path(
    get, path = "/errors/{code}", tag = "health",
    params(("code" = String, Path, description = "like `PH4004`")),
    responses((status = 200, description = "the page, Markdown", body = String, content_type = "text/plain")),
)]
pub(crate) async fn show(Path(code): Path<String>) -> Result<Response, Problem> {
    let page = error_page(&code).ok_or_else(|| Problem::not_found(format_args!("error code `{code}`")))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], page).into_response())
}

/// The first sentence of the page's advice.
pub(crate) fn what_to_do(code: Code) -> &'static str {
    let advice = error_page(&code.to_string()).and_then(|page| page.split_once(WHAT_TO_DO));
    advice.and_then(|(_, advice)| advice.lines().next()).unwrap_or_default().trim_end_matches('.')
}

/// The page of a code like `PH4004`, Markdown; every code has one.
pub fn error_page(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == code).map(|(_, page)| *page)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use phronis_core::code::ALL;

    use super::*;

    #[test]
    fn every_code_has_a_page_and_every_page_a_code() {
        let folder = format!("{}/../../docs/errors", std::env::var("CARGO_MANIFEST_DIR").unwrap());
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
            .collect();
        let codes: BTreeSet<String> = ALL.iter().map(Code::to_string).collect();
        let served: BTreeSet<String> = PAGES.iter().map(|(code, _)| (*code).to_owned()).collect();
        assert_eq!(files, codes, "docs/errors and host/core/src/code.rs differ");
        assert_eq!(served, codes, "the list in this file and host/core/src/code.rs differ");
    }

    #[test]
    fn every_page_has_the_codes_title_and_the_same_parts() {
        for code in ALL {
            let page = error_page(&code.to_string()).unwrap();
            assert!(page.starts_with(&format!("# {code}: {}\n\n", code.title())), "{code}: the title differs");
            assert!(page.contains("\n## Likely causes\n\n- "), "{code}: no causes");
            assert!(!what_to_do(*code).is_empty(), "{code}: no advice");
        }
    }
}
