//! Scopes of API keys.

/// What a key may do in this api.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Publish meters and cards.
    CatalogWrite,
    /// Read meters and cards.
    CatalogRead,
    /// Apps and API keys.
    KeysWrite,
    /// Register teams and aliases.
    TeamsWrite,
    /// Read teams and aliases.
    TeamsRead,
    /// Read usage and events.
    UsageRead,
    /// Read balances, transfers and journals.
    BalancesRead,
    /// Read the conservation statement.
    StatusRead,
    /// Set and read limits.
    LimitsWrite,
    /// Read who changed what.
    AuditRead,
    /// Make wallets, give grants and end them.
    WalletsWrite,
    /// Read wallets, grants and holds.
    WalletsRead,
    /// Hold, capture and release, and consume without an event: spend what is there, add nothing.
    HoldsWrite,
    /// Take events back, amend them and rate them again.
    CorrectionsWrite,
}

/// The scope of ingestion, which another process checks, and the one that is all of them.
const OTHERS: [&str; 2] = ["events:write", "*"];

impl Scope {
    /// All scopes of this api.
    pub const ALL: [Scope; 14] = [
        Scope::CatalogWrite,
        Scope::CatalogRead,
        Scope::KeysWrite,
        Scope::TeamsWrite,
        Scope::TeamsRead,
        Scope::UsageRead,
        Scope::BalancesRead,
        Scope::StatusRead,
        Scope::LimitsWrite,
        Scope::AuditRead,
        Scope::WalletsWrite,
        Scope::WalletsRead,
        Scope::HoldsWrite,
        Scope::CorrectionsWrite,
    ];

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Scope::CatalogWrite => "catalog:write",
            Scope::CatalogRead => "catalog:read",
            Scope::KeysWrite => "keys:write",
            Scope::TeamsWrite => "teams:write",
            Scope::TeamsRead => "teams:read",
            Scope::UsageRead => "usage:read",
            Scope::BalancesRead => "balances:read",
            Scope::StatusRead => "status:read",
            Scope::LimitsWrite => "limits:write",
            Scope::AuditRead => "audit:read",
            Scope::WalletsWrite => "wallets:write",
            Scope::WalletsRead => "wallets:read",
            Scope::HoldsWrite => "holds:write",
            Scope::CorrectionsWrite => "corrections:write",
        }
    }

    /// Every scope that a key can be given.
    pub fn known() -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().map(Scope::text).chain(OTHERS)
    }
}
