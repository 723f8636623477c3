//! `#[derive(Event)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Field, Index, Lifetime, parse_quote};

use crate::attribute;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let fields = attribute::named_fields(input, "Event")?;
    let lifetime = attribute::only_lifetime(input, "Event")?;
    let batch = lifetime.clone().unwrap_or_else(|| Lifetime::new("'phronis", Span::call_site()));
    let arguments = lifetime.map(|lifetime| quote!(<#lifetime>));

    let (mut declarations, mut types, mut columns, mut reads) = (vec![], vec![], vec![], vec![]);
    for (index, (field_name, field)) in fields.iter().enumerate() {
        let of_type = &field.ty;
        let index = Index::from(index);
        let value = quote_spanned!(of_type.span()=> <#of_type as ::phronis_sdk::Value<#batch>>);
        let path = path(&attribute::plain_name(field_name), field)?;
        declarations.push(quote!(::phronis_sdk::__private::field::<#of_type>(#path)));
        types.push(quote_spanned!(of_type.span()=> #value::Column));
        columns.push(quote!(#value::column(&columns[#index], batch.rows as usize)?));
        reads.push(quote!(#field_name: #value::read(&columns.#index, row)?));
    }
    let count = fields.len();
    Ok(quote! {
        #[automatically_derived]
        impl<#batch> ::phronis_sdk::Event<#batch> for #name #arguments {
            type Columns = (#(#types,)*);

            fn fields<P: ::phronis_sdk::Params>(
                params: &P,
            ) -> ::core::result::Result<::std::vec::Vec<::phronis_sdk::Field>, ::phronis_sdk::ParamError> {
                let _ = params;
                ::core::result::Result::Ok(::std::vec![#(#declarations),*])
            }

            fn columns(
                batch: &#batch ::phronis_sdk::Batch,
            ) -> ::core::result::Result<Self::Columns, ::std::string::String> {
                let columns = ::phronis_sdk::__private::column_count::<#count>(batch)?;
                let _ = columns;
                ::core::result::Result::Ok((#(#columns,)*))
            }

            #[inline]
            fn row(columns: &Self::Columns, row: usize) -> ::core::option::Option<Self> {
                let _ = (columns, row);
                ::core::option::Option::Some(Self { #(#reads),* })
            }
        }
    })
}

/// The path of a field, as an expression of `&str`.
fn path(name: &str, field: &Field) -> syn::Result<syn::Expr> {
    let mut path = parse_quote!(#name);
    for entry in attribute::entries(&field.attrs, "field")? {
        match entry.key.to_string().as_str() {
            "path" => {
                let text = entry.text()?;
                if text.value().is_empty() {
                    return Err(syn::Error::new_spanned(text, "the path is empty"));
                }
                path = parse_quote!(#text);
            }
            "path_param" => {
                let text = entry.text()?;
                path = parse_quote!(::phronis_sdk::__private::path_of(params, #text)?);
            }
            _ => return Err(entry.unknown("path, path_param")),
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(input: &str) -> String {
        expand(&syn::parse_str(input).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_an_event_is_refused_in_words() {
        assert!(refusal("struct E(f64);").contains("named fields"));
        assert!(refusal("enum E { A }").contains("named fields"));
        assert!(refusal("struct E<T> { a: T }").contains("no type parameters"));
        assert!(refusal("struct E<'a, 'b> { a: &'a str, b: &'b str }").contains("at most one lifetime"));
        assert!(refusal(r#"struct E { #[field(pth = "a")] a: f64 }"#).contains("known are path, path_param"));
        assert!(refusal("struct E { #[field(path = 3)] a: f64 }").contains("needs a text"));
        assert!(refusal(r#"struct E { #[field(path = "")] a: f64 }"#).contains("empty"));
    }

    #[test]
    fn a_raw_identifier_reads_the_plain_field() {
        let tokens = expand(&syn::parse_str("struct E { r#type: f64 }").unwrap()).unwrap().to_string();
        assert!(tokens.contains("(\"type\")"), "{tokens}");
    }
}
