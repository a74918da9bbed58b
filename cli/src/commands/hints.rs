//! `weir hints`: what to try with the `weir up` that runs. `make up` prints it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, ensure};

use crate::{endpoints::Endpoints, output::sayln};

/// What `weir hints` is started with.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of the `weir up`
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
}

/// Prints lines that can be pasted as they are.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let endpoints = Endpoints::read(&arguments.data)?;
    ensure!(
        endpoints.process_runs(),
        "`weir up` of {} does not run any more; start it, and wait until it is ready",
        arguments.data.display()
    );
    let Endpoints { http, postgres, clickhouse, admin_key, .. } = endpoints;
    sayln!(
        r#"Weir is running.

  address   {http}/   (the interface: {http}/docs)
  page      {http}/#key={admin_key}
  API key   {admin_key}

Send an event:

  curl -sS {http}/v1/events -H 'Authorization: Bearer {admin_key}' -H 'Content-Type: application/json' -d '{{"id":"first-1","type":"llm.tokens.v1","source":"my-tool","subject":"team-01","data":{{"provider":"openai","model":"gpt-4-turbo","inputTokens":1000,"outputTokens":250}}}}'

Read its team's balance:

  curl -sS {http}/v1/teams/team-01/balance -H 'Authorization: Bearer {admin_key}'

List the event's lines and journal (a second later, when it is posted and archived):

  curl -sS '{http}/v1/events?source=my-tool&id=first-1' -H 'Authorization: Bearer {admin_key}'

SQL on the ledger:

  psql '{postgres}' -c "SELECT t.posted_at, team, meter, quantity, amount, currency FROM transfers JOIN journals t USING (tenant_id, journal_id) ORDER BY t.posted_at DESC LIMIT 10"

SQL on the archive:

  curl -sS '{clickhouse}/?database=weir' --data-binary "SELECT team, charge, cost, margin FROM margin_by_team ORDER BY charge DESC LIMIT 10 FORMAT PrettyCompact"
"#
    );
    Ok(ExitCode::SUCCESS)
}
