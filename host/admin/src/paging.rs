//! Lists in pieces: `?limit=&cursor=` in, `{items, next}` out.
//!
//! The cursor is the id of the last item; it means nothing to clients and stays right while items come and go.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which piece of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Paging {
    /// Most items, 1 to 1000; 100 unless said.
    pub(crate) limit: Option<usize>,
    /// `next` of the piece before.
    pub(crate) cursor: Option<String>,
}

/// A piece of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items, by id.
    pub(crate) items: Vec<T>,
    /// The cursor of the next piece, if there is one.
    pub(crate) next: Option<String>,
}

impl Paging {
    /// Most items of the piece.
    pub(crate) fn limit(&self) -> usize {
        self.limit.unwrap_or(100).clamp(1, 1000)
    }

    /// Cuts the piece out of all items.
    pub(crate) fn cut<T>(&self, items: impl Iterator<Item = T>, id: impl Fn(&T) -> String) -> Page<T> {
        let limit = self.limit();
        let mut rest: Vec<T> =
            items.filter(|item| self.cursor.as_ref().is_none_or(|cursor| id(item) > *cursor)).collect();
        rest.sort_by_cached_key(&id);
        let mut rest = rest.into_iter();
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let next = if rest.next().is_some() { items.last().map(&id) } else { None };
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_list_once() {
        let all = ["e", "a", "c", "b", "d"];
        let (mut seen, mut cursor) = (Vec::<&str>::new(), None);
        loop {
            let page = Paging { limit: Some(2), cursor }.cut(all.into_iter(), |item| (*item).to_owned());
            seen.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    }
}
