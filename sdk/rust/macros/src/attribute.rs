//! Reading structs and `#[name(key = value)]` attributes.

use proc_macro2::Ident;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Data, DataStruct, DeriveInput, Expr, ExprLit, Field, Fields, Lifetime, Lit, LitStr, Token};

/// `key` or `key = value`.
pub(crate) struct Entry {
    pub(crate) key: Ident,
    pub(crate) value: Option<Expr>,
}

impl Parse for Entry {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let key = input.parse()?;
        let value = if input.parse::<Option<Token![=]>>()?.is_some() { Some(input.parse()?) } else { None };
        Ok(Self { key, value })
    }
}

impl Entry {
    /// The value as a text.
    pub(crate) fn text(&self) -> syn::Result<LitStr> {
        match &self.value {
            Some(Expr::Lit(ExprLit { lit: Lit::Str(text), .. })) => Ok(text.clone()),
            _ => Err(syn::Error::new(self.key.span(), format!("`{} = \"…\"` needs a text", self.key))),
        }
    }

    /// The value as an expression.
    pub(crate) fn expression(&self) -> syn::Result<Expr> {
        let missing = || syn::Error::new(self.key.span(), format!("`{} = …` needs a value", self.key));
        self.value.clone().ok_or_else(missing)
    }

    /// The error for a key that is none of `known`.
    pub(crate) fn unknown(&self, known: &str) -> syn::Error {
        syn::Error::new(self.key.span(), format!("`{}` is not known here; known are {known}", self.key))
    }
}

/// All entries of the attributes called `name`.
pub(crate) fn entries(attributes: &[Attribute], name: &str) -> syn::Result<Vec<Entry>> {
    let mut all = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        all.extend(attribute.parse_args_with(Punctuated::<Entry, Token![,]>::parse_terminated)?);
    }
    Ok(all)
}

/// The doc comment, as one line.
pub(crate) fn doc_comment(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &pair.value
        {
            lines.push(text.value().trim().to_owned());
        }
    }
    lines.join(" ").trim().to_owned()
}

/// The fields of a struct with named fields.
pub(crate) fn named_fields<'a>(input: &'a DeriveInput, derive: &str) -> syn::Result<Vec<(&'a Ident, &'a Field)>> {
    let Data::Struct(DataStruct { fields: Fields::Named(fields), .. }) = &input.data else {
        return Err(syn::Error::new_spanned(&input.ident, format!("{derive} needs a struct with named fields")));
    };
    let fields = &fields.named;
    Ok(fields.iter().filter_map(|field| field.ident.as_ref().map(|name| (name, field))).collect())
}

/// The only lifetime of a struct; anything more generic is refused.
pub(crate) fn only_lifetime(input: &DeriveInput, derive: &str) -> syn::Result<Option<Lifetime>> {
    let mut lifetimes = input.generics.lifetimes();
    let first = lifetimes.next().map(|parameter| parameter.lifetime.clone());
    if lifetimes.next().is_some() || input.generics.type_params().next().is_some() {
        let message = format!("{derive} needs a struct with at most one lifetime and no type parameters");
        return Err(syn::Error::new_spanned(&input.generics, message));
    }
    Ok(first)
}

/// The name of a field without `r#`.
pub(crate) fn plain_name(name: &Ident) -> String {
    let name = name.to_string();
    name.strip_prefix("r#").unwrap_or(&name).to_owned()
}
