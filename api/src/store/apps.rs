//! Apps.

use sqlx::PgConnection;

use crate::{auth::TenantScope, error::ApiError, page::Asked};

/// A row of `apps`.
#[derive(sqlx::FromRow)]
pub(crate) struct AppRow {
    pub app: String,
    pub name: String,
    pub created_at_us: i64,
}

/// Inserts an app; `None` if there is one of this key.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    app: &str,
    name: &str,
) -> Result<Option<AppRow>, ApiError> {
    let row = sqlx::query_as(
        "INSERT INTO apps (tenant_id, app, name) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
         RETURNING app, name, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us",
    )
    .bind(tenant.id())
    .bind(app)
    .bind(name)
    .fetch_optional(connection)
    .await?;
    Ok(row)
}

/// A page of apps by key.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    asked: &Asked,
) -> Result<Vec<AppRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT app, name, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us FROM apps
         WHERE tenant_id = $1 AND ($2::text IS NULL OR app COLLATE \"C\" > $2) ORDER BY app COLLATE \"C\" LIMIT $3",
    )
    .bind(tenant.id())
    .bind(asked.after(0))
    .bind(asked.rows())
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
