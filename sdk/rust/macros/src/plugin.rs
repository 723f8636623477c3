//! `#[detector]` and `#[enricher]`: a type that stands for the plugin, made from the author's function.

use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit_mut::VisitMut;
use syn::{Expr, FnArg, ItemFn, Lifetime, LitStr, Pat, ReturnType, Token, Type, parse_quote};

use crate::attribute::Entry;
use crate::component;

/// The two worlds of a plugin.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum World {
    Detector,
    Enricher,
}

impl World {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Detector => "detector",
            Self::Enricher => "enricher",
        }
    }

    fn signature(self) -> &'static str {
        match self {
            Self::Detector => {
                "a detector is `fn name(event: E, params: &P, alerts: &mut Alerts)`; `params` may be left out"
            }
            Self::Enricher => {
                "an enricher is `fn name(event: E, params: &P) -> Result<A, Reject>`; `params` may be left out"
            }
        }
    }
}

/// `name = "…", version = "…"`.
struct Labels {
    name: LitStr,
    version: Expr,
}

/// The types in the signature of a plugin's function.
struct Signature {
    event: Type,
    params: Option<Type>,
}

pub(crate) fn expand(world: World, arguments: TokenStream, function: &ItemFn) -> syn::Result<TokenStream> {
    let Labels { name, version } = labels(world, arguments)?;
    let Signature { event, params } = signature(world, function)?;
    let (ident, visibility) = (&function.sig.ident, &function.vis);
    let given = params.as_ref().map(|_| quote!(&self.params,)).unwrap_or_default();
    let params = params.unwrap_or_else(|| parse_quote!(()));
    let kind = kind(world, function, &given);
    let role = match world {
        World::Detector => quote!(::phronis_sdk::Detects),
        World::Enricher => quote!(::phronis_sdk::Enriches),
    };
    let exports = component::export(world, ident);
    let doc = format!("The {} `{}`.", world.name(), name.value());
    Ok(quote! {
        #function

        #[doc = #doc]
        #[allow(non_camel_case_types, missing_debug_implementations, dead_code, reason = "named as its function")]
        #visibility struct #ident { params: #params }

        impl ::phronis_sdk::Plugin for #ident {
            const NAME: &'static str = #name;
            const VERSION: &'static str = #version;
            type Params = #params;
            type Role = #role;

            fn fields(
                params: &Self::Params,
            ) -> ::core::result::Result<::std::vec::Vec<::phronis_sdk::Field>, ::phronis_sdk::ParamError> {
                <#event as ::phronis_sdk::Event>::fields(params)
            }

            fn configure(params: Self::Params) -> ::core::result::Result<Self, ::phronis_sdk::ParamError> {
                ::core::result::Result::Ok(Self { params })
            }
        }

        #kind

        #exports
    })
}

/// The implementation of `Detector` or `Enricher`.
fn kind(world: World, function: &ItemFn, params: &TokenStream) -> TokenStream {
    let ident = &function.sig.ident;
    // Named in full, so that a return type that does not do is reported where it stands.
    let mut answer = match &function.sig.output {
        ReturnType::Default => parse_quote!(()),
        ReturnType::Type(_, of_type) => (**of_type).clone(),
    };
    InferLifetimes.visit_type_mut(&mut answer);
    match world {
        World::Detector => {
            quote! {
                impl ::phronis_sdk::Detector for #ident {
                    fn detect(
                        &mut self,
                        batch: &::phronis_sdk::Batch,
                    ) -> ::core::result::Result<::phronis_sdk::Judgement, ::std::string::String> {
                        ::phronis_sdk::__private::detect_rows::<_, #answer>(batch, |event, alerts| {
                            #ident(event, #params alerts)
                        })
                    }
                }
            }
        }
        World::Enricher => {
            quote! {
                impl ::phronis_sdk::Enricher for #ident {
                    fn adds(
                        params: &Self::Params,
                    ) -> ::core::result::Result<::std::vec::Vec<::phronis_sdk::AddedColumn>, ::phronis_sdk::ParamError>
                    {
                        ::phronis_sdk::__private::added_names::<#answer, _>(params)
                    }

                    fn enrich(
                        &mut self,
                        batch: &::phronis_sdk::Batch,
                    ) -> ::core::result::Result<::phronis_sdk::Enrichment, ::std::string::String> {
                        ::phronis_sdk::__private::enrich_rows::<_, #answer>(batch, |event| #ident(event, #params))
                    }
                }
            }
        }
    }
}

fn labels(world: World, arguments: TokenStream) -> syn::Result<Labels> {
    let span = arguments.span();
    let (mut name, mut version) = (None, parse_quote!(::core::env!("CARGO_PKG_VERSION")));
    for entry in Punctuated::<Entry, Token![,]>::parse_terminated.parse2(arguments)? {
        match entry.key.to_string().as_str() {
            "name" => name = Some(checked_name(entry.text()?)?),
            "version" => version = entry.expression()?,
            _ => return Err(entry.unknown("name, version")),
        }
    }
    let missing = || syn::Error::new(span, format!("the plugin needs a name: `#[{}(name = \"…\")]`", world.name()));
    Ok(Labels { name: name.ok_or_else(missing)?, version })
}

fn checked_name(name: LitStr) -> syn::Result<LitStr> {
    let text = name.value();
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if (1..=63).contains(&text.len()) && text.chars().all(fits) {
        return Ok(name);
    }
    Err(syn::Error::new_spanned(name, "a plugin's name has 1 to 63 of the characters a-z, 0-9 and -"))
}

fn signature(world: World, function: &ItemFn) -> syn::Result<Signature> {
    let signature = &function.sig;
    if let Some(parameter) = signature.generics.type_params().next() {
        return Err(syn::Error::new_spanned(parameter, "a plugin's function has no type parameters"));
    }
    if let Some(token) = &signature.asyncness {
        return Err(syn::Error::new_spanned(token, "a plugin's function is not async: a call judges and returns"));
    }
    let mut types = Vec::new();
    for argument in &signature.inputs {
        match argument {
            FnArg::Typed(argument) if !matches!(&*argument.pat, Pat::Rest(_)) => types.push(&*argument.ty),
            other => return Err(syn::Error::new_spanned(other, world.signature())),
        }
    }
    if world == World::Detector {
        match types.pop() {
            Some(Type::Reference(last)) if last.mutability.is_some() => {}
            Some(other) => {
                let message = format!("the last argument is `alerts: &mut Alerts`: {}", world.signature());
                return Err(syn::Error::new_spanned(other, message));
            }
            None => return Err(syn::Error::new_spanned(&signature.ident, world.signature())),
        }
    }
    let (event, params) = match types.as_slice() {
        [event] => (*event, None),
        [event, Type::Reference(params)] if params.mutability.is_none() => (*event, Some((*params.elem).clone())),
        [_, other] => {
            let message = format!("the parameters are taken as `&P`: {}", world.signature());
            return Err(syn::Error::new_spanned(other, message));
        }
        _ => return Err(syn::Error::new_spanned(&signature.ident, world.signature())),
    };
    if let Type::Reference(event) = event {
        let message = format!("the event is taken by value: {}", world.signature());
        return Err(syn::Error::new_spanned(event, message));
    }
    let mut event = event.clone();
    InferLifetimes.visit_type_mut(&mut event);
    Ok(Signature { event, params })
}

/// Replaces named lifetimes, which mean nothing outside of the function, by `'_`.
struct InferLifetimes;

impl VisitMut for InferLifetimes {
    fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
        if lifetime.ident != "static" {
            *lifetime = Lifetime::new("'_", lifetime.span());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(world: World, arguments: TokenStream, function: &str) -> String {
        expand(world, arguments, &syn::parse_str(function).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_signature_is_refused_in_words() {
        let detector = |function| refusal(World::Detector, quote!(name = "a"), function);
        assert!(detector("fn f() {}").contains("a detector is"));
        assert!(detector("fn f(e: E) {}").contains("the last argument is"));
        assert!(detector("fn f(a: &mut Alerts) {}").contains("a detector is"));
        assert!(detector("fn f(e: &E, a: &mut Alerts) {}").contains("by value"));
        assert!(detector("fn f(e: E, p: P, a: &mut Alerts) {}").contains("`&P`"));
        assert!(detector("async fn f(e: E, a: &mut Alerts) {}").contains("not async"));
        assert!(detector("fn f<T>(e: T, a: &mut Alerts) {}").contains("no type parameters"));
        let enricher = |function| refusal(World::Enricher, quote!(name = "a"), function);
        assert!(enricher("fn f() -> A {}").contains("an enricher is"));
        assert!(enricher("fn f(e: E, p: &mut P) -> A {}").contains("`&P`"));
    }

    #[test]
    fn a_plugin_needs_a_name_that_fits() {
        let named = |arguments| refusal(World::Detector, arguments, "fn f(e: E, a: &mut Alerts) {}");
        assert!(named(quote!()).contains("needs a name"));
        assert!(named(quote!(name = "Too Hot")).contains("1 to 63"));
        assert!(named(quote!(nam = "a")).contains("known are name, version"));
    }
}
