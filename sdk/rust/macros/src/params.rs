//! `#[derive(Params)]`: a struct becomes an object of the schema, an enum of unit variants a choice of texts.

use proc_macro2::{Ident, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Expr, Field, Fields, Path};

use crate::attribute;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    if let Some(parameter) = input.generics.params.first() {
        return Err(syn::Error::new_spanned(
            parameter,
            "Params owns what it holds: no lifetimes and no type parameters",
        ));
    }
    match &input.data {
        Data::Enum(data) => choice(&input.ident, data),
        _ => object(input),
    }
}

/// One parameter, as its attributes describe it.
struct Parameter<'a> {
    ident: &'a Ident,
    of_type: &'a syn::Type,
    name: String,
    doc: String,
    /// A closure that gives the default.
    default: TokenStream,
    min: TokenStream,
    max: TokenStream,
}

fn object(input: &DeriveInput) -> syn::Result<TokenStream> {
    let ident = &input.ident;
    let validate = validate(input)?;
    let mut properties = vec![];
    let (mut names, mut reads, mut writes, mut texts) = (vec![], vec![], vec![], vec![]);
    for (field_name, field) in attribute::named_fields(input, "Params")? {
        let Parameter { ident, of_type, name, doc, default, min, max } = parameter(field_name, field)?;
        let param = quote_spanned!(of_type.span()=> <#of_type as ::phronis_sdk::Param>);
        properties.push(quote!(::phronis_sdk::__private::Property {
            name: #name,
            schema: #param::schema(),
            doc: #doc,
            default: (#default)().map(|value: #of_type| #param::to_json(&value)),
            min: #min,
            max: #max,
        }));
        reads.push(quote!(#ident: object.read::<#of_type>(#name, #default, #min, #max)?));
        writes.push(quote!((::std::string::String::from(#name), #param::to_json(&self.#ident))));
        texts.push(quote!(#name => #param::as_text(&self.#ident)));
        names.push(name);
    }
    Ok(quote! {
        #[automatically_derived]
        impl ::phronis_sdk::Param for #ident {
            fn schema() -> ::phronis_sdk::__private::Json {
                ::phronis_sdk::__private::object_schema(::std::vec![#(#properties),*])
            }

            fn parse(
                json: &::phronis_sdk::__private::Json,
            ) -> ::core::result::Result<Self, ::phronis_sdk::ParamError> {
                let object = ::phronis_sdk::__private::Object::open(json, &[#(#names),*])?;
                let _ = &object;
                let params = Self { #(#reads),* };
                #validate
                ::core::result::Result::Ok(params)
            }

            fn to_json(&self) -> ::phronis_sdk::__private::Json {
                ::phronis_sdk::__private::Json::Object(::core::iter::FromIterator::from_iter([#(#writes),*]))
            }
        }

        #[automatically_derived]
        impl ::phronis_sdk::Params for #ident {
            fn text(&self, name: &str) -> ::core::option::Option<&str> {
                match name {
                    #(#texts,)*
                    _ => ::core::option::Option::None,
                }
            }
        }
    })
}

fn validate(input: &DeriveInput) -> syn::Result<TokenStream> {
    let mut call = quote!();
    for entry in attribute::entries(&input.attrs, "params")? {
        if entry.key != "validate" {
            return Err(entry.unknown("validate"));
        }
        let function = entry.expression()?;
        call = quote_spanned! {function.span()=>
            let valid: ::core::result::Result<(), ::phronis_sdk::ParamError> = #function(&params);
            valid?;
        };
    }
    Ok(call)
}

fn parameter<'a>(ident: &'a Ident, field: &'a Field) -> syn::Result<Parameter<'a>> {
    let of_type = &field.ty;
    let none = quote!(::core::option::Option::None);
    let mut parameter = Parameter {
        ident,
        of_type,
        name: attribute::plain_name(ident),
        doc: attribute::doc_comment(&field.attrs),
        default: quote!(<#of_type as ::phronis_sdk::Param>::absent),
        min: none.clone(),
        max: none,
    };
    for entry in attribute::entries(&field.attrs, "param")? {
        match entry.key.to_string().as_str() {
            "default" => parameter.default = default(of_type, entry.value.as_ref()),
            "doc" => parameter.doc = entry.text()?.value(),
            "name" => parameter.name = entry.text()?.value(),
            "min" => parameter.min = limit(&entry.expression()?),
            "max" => parameter.max = limit(&entry.expression()?),
            _ => return Err(entry.unknown("default, doc, min, max, name")),
        }
    }
    Ok(parameter)
}

fn default(of_type: &syn::Type, value: Option<&Expr>) -> TokenStream {
    match value {
        Some(value) => quote!(|| ::phronis_sdk::__private::given::<#of_type>(#value)),
        None => {
            quote!(|| ::phronis_sdk::__private::given::<#of_type>(<#of_type as ::core::default::Default>::default()))
        }
    }
}

fn limit(value: &Expr) -> TokenStream {
    quote!(::phronis_sdk::__private::given::<f64>(#value))
}

fn choice(ident: &Ident, data: &DataEnum) -> syn::Result<TokenStream> {
    let (mut names, mut variants) = (vec![], vec![]);
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(syn::Error::new_spanned(variant, "a choice has variants without fields"));
        }
        let mut name = snake_case(&variant.ident.to_string());
        for entry in attribute::entries(&variant.attrs, "param")? {
            match entry.key.to_string().as_str() {
                "name" => name = entry.text()?.value(),
                _ => return Err(entry.unknown("name")),
            }
        }
        names.push(name);
        variants.push(Path::from(variant.ident.clone()));
    }
    Ok(quote! {
        #[automatically_derived]
        impl ::phronis_sdk::Param for #ident {
            fn schema() -> ::phronis_sdk::__private::Json {
                ::phronis_sdk::__private::choice_schema(&[#(#names),*])
            }

            fn parse(
                json: &::phronis_sdk::__private::Json,
            ) -> ::core::result::Result<Self, ::phronis_sdk::ParamError> {
                match json.as_str() {
                    #(::core::option::Option::Some(#names) => ::core::result::Result::Ok(Self::#variants),)*
                    _ => ::core::result::Result::Err(
                        ::phronis_sdk::__private::unknown_choice(json, &[#(#names),*])
                    ),
                }
            }

            fn to_json(&self) -> ::phronis_sdk::__private::Json {
                ::phronis_sdk::__private::Json::from(match self {
                    #(Self::#variants => #names,)*
                })
            }
        }
    })
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_parameter_is_refused_in_words() {
        let refusal = |input| expand(&syn::parse_str(input).unwrap()).unwrap_err().to_string();
        assert!(refusal("struct P<'a> { a: &'a str }").contains("owns what it holds"));
        assert!(refusal("struct P(f64);").contains("named fields"));
        assert!(refusal("enum P { A(f64) }").contains("variants without fields"));
        assert!(refusal("struct P { #[param(defalt = 1)] a: f64 }").contains("known are default, doc"));
        assert!(refusal("struct P { #[param(min)] a: f64 }").contains("needs a value"));
        assert!(refusal("#[params(check = f)] struct P { a: f64 }").contains("known are validate"));
    }

    #[test]
    fn variants_become_snake_case() {
        assert_eq!(snake_case("NotEqual"), "not_equal");
    }
}
