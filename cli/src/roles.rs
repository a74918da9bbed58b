//! The five roles, started in this process.

use anyhow::{Context as _, Result};
use runtime::{
    context::Context,
    task::{TaskError, Tasks},
};
use utoipa_axum::router::OpenApiRouter;

use crate::{config::Config, process};

/// One process of the pipeline; `weir up` is all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Accepts events.
    Ingest,
    /// Prices them.
    Rater,
    /// Posts them.
    LedgerWriter,
    /// Keeps them.
    Archiver,
    /// Answers.
    Api,
}

impl Role {
    /// All of them, in the order of an event's way.
    pub const ALL: [Role; 5] =
        [Role::Ingest, Role::Rater, Role::LedgerWriter, Role::Archiver, Role::Api];

    /// What its process calls itself in traces, logs and to Postgres.
    pub fn service(self) -> &'static str {
        match self {
            Role::Ingest => "weir-ingest",
            Role::Rater => "weir-rater",
            Role::LedgerWriter => "weir-ledger-writer",
            Role::Archiver => "weir-archiver",
            Role::Api => "weir-api",
        }
    }

    /// Its short name: threads of the process are called so.
    pub fn name(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Rater => "rater",
            Role::LedgerWriter => "ledger",
            Role::Archiver => "archive",
            Role::Api => "api",
        }
    }

    /// The role in Postgres that it works as.
    pub fn database_role(self) -> &'static str {
        match self {
            Role::Ingest | Role::Rater => "weir_reader",
            Role::LedgerWriter => "weir_writer",
            Role::Archiver => "weir_archiver",
            Role::Api => "weir_api",
        }
    }

    /// Starts the role under `tasks` and gives the routes that it answers.
    pub async fn start(
        self,
        config: &Config,
        context: &Context,
        tasks: &mut Tasks,
    ) -> Result<OpenApiRouter> {
        self.start_beside(&OpenApiRouter::new(), config, context, tasks).await
    }

    /// The same in a process that answers `others` already: the api sends events again through an
    /// ingest among them.
    pub async fn start_beside(
        self,
        others: &OpenApiRouter,
        config: &Config,
        context: &Context,
        tasks: &mut Tasks,
    ) -> Result<OpenApiRouter> {
        let context = context.clone();
        let mut router = OpenApiRouter::new();
        match self {
            Role::Ingest => {
                let mut service = ingest::Service::open(config.ingest.clone(), &context)
                    .await
                    .context("ingest")?;
                if !config.log.kafka.brokers.is_empty() {
                    service.read_doors(process::kafka_options(&config.log));
                }
                router = service.router();
                tasks.spawn(self.name(), async move { service.run().await.map_err(boxed) });
            }
            Role::Api => {
                let service =
                    api::Service::open(config.api.clone(), &context).await.context("api")?;
                router = service.router();
                if !others.get_openapi().paths.paths.is_empty() {
                    service.use_ingest(others.clone().into());
                }
                tasks.spawn(self.name(), async move { service.run().await.map_err(boxed) });
            }
            Role::Rater => {
                let running = rater::run(config.rater.clone(), context);
                tasks.spawn(self.name(), async move { running.await.map_err(boxed) });
            }
            Role::LedgerWriter => {
                let running = ledger_writer::run(config.ledger_writer.clone(), context);
                tasks.spawn(self.name(), async move { running.await.map_err(boxed) });
            }
            Role::Archiver => {
                let running = archiver::run(config.archiver.clone(), context);
                tasks.spawn(self.name(), async move { running.await.map_err(boxed) });
            }
        }
        Ok(router)
    }
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> TaskError {
    Box::new(error)
}
