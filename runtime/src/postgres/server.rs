//! A private Postgres server under a folder, from the installed binaries.
