//! Parameters where there are none: what would be ignored is refused, as it is where there are some.

use std::{collections::HashSet, sync::Arc};

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use runtime::http::Problem;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::{Operation, ParameterIn, PathItem},
};

/// Methods with their paths, as the document has them, that take no parameter in the query.
#[derive(Clone, Debug)]
pub(crate) struct WithoutParameters(Arc<HashSet<(Method, String)>>);

impl WithoutParameters {
    /// Those of a document.
    pub fn of(document: &OpenApi) -> Self {
        let paths = document.paths.paths.iter();
        let operations = paths.flat_map(|(path, item)| {
            let bare = operations(item).filter(|(_, operation)| !has_query(operation));
            bare.map(|(method, _)| (method, path.clone()))
        });
        Self(Arc::new(operations.collect()))
    }

    /// Answers 400 to a request with a query where there is no parameter.
    pub async fn check(self, request: Request, next: Next) -> Response {
        let given = request.uri().query().is_some_and(|query| !query.is_empty());
        let path = request.extensions().get::<MatchedPath>().filter(|_| given);
        let bare = path.is_some_and(|path| {
            let asked = match *request.method() {
                // Its answer is that of GET without the body.
                Method::HEAD => Method::GET,
                ref method => method.clone(),
            };
            self.0.contains(&(asked, path.as_str().to_owned()))
        });
        if !bare {
            return next.run(request).await;
        }
        Problem::bad_request(
            "query_invalid",
            "this path has no parameters after `?`",
            "leave them out; see /openapi.json for the parameters of each path",
        )
        .into_response()
    }
}

fn operations(item: &PathItem) -> impl Iterator<Item = (Method, &Operation)> {
    let all = [
        (Method::GET, &item.get),
        (Method::PUT, &item.put),
        (Method::POST, &item.post),
        (Method::PATCH, &item.patch),
        (Method::DELETE, &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn has_query(operation: &Operation) -> bool {
    let mut parameters = operation.parameters.iter().flatten();
    parameters.any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => true,
    })
}
