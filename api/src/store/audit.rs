//! Who changed what. Rows are inserted and read, never changed.

use runtime::http::request_id;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auth::{Actor, TenantScope},
    error::ApiError,
};

/// A change that is being made.
pub(crate) struct NewChange<'a> {
    pub actor: &'a Actor,
    pub action: &'a str,
    pub target: &'a str,
    pub before: Option<&'a str>,
    pub after: &'a str,
}

/// Records a change in the transaction that makes it.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    tenant: TenantScope,
    change: &NewChange<'_>,
) -> Result<(), ApiError> {
    sqlx::query(
        "INSERT INTO privileged_changes (tenant_id, change_id, actor_kind, actor, actor_app, action, target, before, after, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(tenant.id())
    .bind(Uuid::now_v7())
    .bind(change.actor.kind)
    .bind(&change.actor.id)
    .bind(change.actor.app.as_deref())
    .bind(change.action)
    .bind(change.target)
    .bind(change.before)
    .bind(change.after)
    .bind(request_id())
    .execute(connection)
    .await?;
    Ok(())
}

/// A row of `privileged_changes`.
#[derive(sqlx::FromRow)]
pub(crate) struct ChangeRow {
    pub change_id: Uuid,
    pub changed_at_us: i64,
    pub actor_kind: String,
    pub actor: String,
    pub actor_app: Option<String>,
    pub action: String,
    pub target: String,
    pub before: Option<String>,
    pub after: String,
    pub request_id: Option<String>,
}

/// Which changes.
#[derive(Debug, Default)]
pub(crate) struct ChangeQuestion {
    pub actor: Option<String>,
    pub action: Option<String>,
    pub target: Option<String>,
    pub from_us: Option<i64>,
    pub to_us: Option<i64>,
    pub after: Option<Uuid>,
    pub limit: i64,
}

/// Changes, newest first.
pub(crate) async fn list(
    connection: &mut PgConnection,
    tenant: TenantScope,
    question: &ChangeQuestion,
) -> Result<Vec<ChangeRow>, ApiError> {
    let rows = sqlx::query_as(
        "SELECT change_id, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at_us, actor_kind, actor, actor_app,
             action, target, before, after, request_id
         FROM privileged_changes
         WHERE tenant_id = $1 AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
             AND ($4::text IS NULL OR target = $4)
             AND ($5::bigint IS NULL OR changed_at >= to_timestamp(0) + $5 * interval '1 microsecond')
             AND ($6::bigint IS NULL OR changed_at < to_timestamp(0) + $6 * interval '1 microsecond')
             AND ($7::uuid IS NULL OR change_id < $7)
         ORDER BY change_id DESC LIMIT $8",
    )
    .bind(tenant.id())
    .bind(question.actor.as_deref())
    .bind(question.action.as_deref())
    .bind(question.target.as_deref())
    .bind(question.from_us)
    .bind(question.to_us)
    .bind(question.after)
    .bind(question.limit)
    .fetch_all(connection)
    .await?;
    Ok(rows)
}
