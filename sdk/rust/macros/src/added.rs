//! `#[derive(Added)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{DeriveInput, Expr, Field, Index, parse_quote};

use crate::attribute;

pub(crate) fn expand(input: &DeriveInput) -> syn::Result<TokenStream> {
    let name = &input.ident;
    let fields = attribute::named_fields(input, "Added")?;
    attribute::only_lifetime(input, "Added")?;
    let (generics, arguments, _) = input.generics.split_for_impl();

    let (mut names, mut builders, mut columns) = (vec![], vec![], vec![]);
    for (index, (field_name, field)) in fields.iter().enumerate() {
        let of_type = &field.ty;
        let index = Index::from(index);
        let column_name = column_name(&attribute::plain_name(field_name), field)?;
        let value = quote_spanned!(of_type.span()=> <#of_type as ::phronis_sdk::AddedValue>);
        names.push(quote!(::phronis_sdk::AddedColumn {
            name: ::std::string::String::from(#column_name),
            of_type: #value::TYPE,
        }));
        builders.push(quote!(::phronis_sdk::__private::Builder));
        columns.push(quote!(builders.#index.finish::<#of_type>()));
    }
    // One destructuring, then one push a column: a row without values pushes a null everywhere.
    let field_names: Vec<_> = fields.iter().map(|(field_name, _)| *field_name).collect();
    let indices: Vec<_> = (0..fields.len()).map(Index::from).collect();
    let types: Vec<_> = fields.iter().map(|(_, field)| &field.ty).collect();
    Ok(quote! {
        #[automatically_derived]
        impl #generics ::phronis_sdk::Added for #name #arguments {
            type Builders = (#(#builders,)*);

            fn names<P: ::phronis_sdk::Params>(
                params: &P,
            ) -> ::core::result::Result<::std::vec::Vec<::phronis_sdk::AddedColumn>, ::phronis_sdk::ParamError> {
                let _ = params;
                ::core::result::Result::Ok(::std::vec![#(#names),*])
            }

            #[inline]
            fn push(row: ::core::option::Option<Self>, builders: &mut Self::Builders) {
                match row {
                    ::core::option::Option::Some(Self { #(#field_names),* }) => {
                        #(builders.#indices.push(::core::option::Option::Some(#field_names));)*
                    }
                    ::core::option::Option::None => {
                        #(builders.#indices.push::<#types>(::core::option::Option::None);)*
                    }
                }
            }

            fn finish(builders: Self::Builders) -> ::std::vec::Vec<::phronis_sdk::Column> {
                ::std::vec![#(#columns),*]
            }
        }
    })
}

/// The name of a column, as an expression of `&str`.
fn column_name(name: &str, field: &Field) -> syn::Result<Expr> {
    let mut column_name = parse_quote!(#name);
    for entry in attribute::entries(&field.attrs, "column")? {
        let text = entry.text()?;
        match entry.key.to_string().as_str() {
            "name" => column_name = parse_quote!(#text),
            "name_param" => column_name = parse_quote!(::phronis_sdk::__private::path_of(params, #text)?),
            _ => return Err(entry.unknown("name, name_param")),
        }
    }
    Ok(column_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_added_is_refused_in_words() {
        let refusal = |input| expand(&syn::parse_str(input).unwrap()).unwrap_err().to_string();
        assert!(refusal("struct A(f64);").contains("named fields"));
        assert!(refusal(r#"struct A { #[column(path = "x")] a: f64 }"#).contains("known are name, name_param"));
    }
}
