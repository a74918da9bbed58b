//! When the certificates of the servers that are reached over TLS end.
//!
//! Only their dates are looked at: whether they are trusted is decided where they are used. Nothing
//! is sent on these connections.

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use runtime::{postgres::connect_options, task};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sqlx::postgres::PgSslMode;

use super::{Report, target::Target};

/// How long a server may take for each step.
const STEP_TIME_MAX: Duration = Duration::from_secs(5);
const DAY_S: i64 = 86_400;
const WARNING_DAYS: i64 = 21;
/// Postgres begins TLS when it is asked to, and answers `S` first: length 8, code 1234 5679.
const POSTGRES_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A server that speaks TLS.
struct Server {
    name: &'static str,
    host: String,
    port: u16,
    /// Sent before the handshake.
    prelude: &'static [u8],
}

/// Checks each server that is reached over TLS.
pub async fn check(target: &Target, report: &mut Report) {
    for server in servers(target) {
        let check = format!("{}.certificate", server.name);
        let place = format!("{}:{}", server.host, server.port);
        let end = task::blocking(move || not_after(&server)).await;
        let now_s = task::now_us() / 1_000_000;
        match end.map_err(anyhow::Error::from).and_then(|end| end) {
            Ok(end_s) => {
                let days = end_s.saturating_sub(now_s).div_euclid(DAY_S);
                let action = "replace it; the server reads the new one when it is reloaded";
                let found = format!("that of {place} ends in {days} days");
                match days {
                    ..0 => report.wrong(&check, format!("that of {place} has ended"), action),
                    0..WARNING_DAYS => report.warning(&check, found, action),
                    _ => report.ok(&check, found),
                }
            }
            Err(error) => {
                let action = "mend the address or the server's TLS";
                report.wrong(&check, format!("{place}: {error:#}"), action);
            }
        }
    }
}

fn servers(target: &Target) -> Vec<Server> {
    let config = &target.config;
    let mut servers = Vec::new();
    if let Ok(options) = connect_options(config.postgres.url.expose())
        && let PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull =
            options.get_ssl_mode()
    {
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        servers.push(Server { name: "postgres", host, port, prelude: &POSTGRES_TLS });
    }
    if let Ok(url) = reqwest::Url::parse(&config.clickhouse.url)
        && url.scheme() == "https"
        && let Some(host) = url.host_str()
    {
        let (host, port) = (host.to_owned(), url.port_or_known_default().unwrap_or(443));
        servers.push(Server { name: "clickhouse", host, port, prelude: &[] });
    }
    let kafka = &config.log.kafka;
    let protocol = kafka.properties.get("security.protocol").map(|text| text.to_uppercase());
    if protocol.is_some_and(|protocol| protocol.ends_with("SSL")) {
        let brokers = kafka.brokers.split(',').filter_map(|broker| {
            let (host, port) = broker.trim().rsplit_once(':')?;
            let (host, port) = (host.to_owned(), port.parse().ok()?);
            Some(Server { name: "log", host, port, prelude: &[] })
        });
        servers.extend(brokers);
    }
    servers
}

/// When the server's certificate ends, in seconds since 1970. Blocks.
fn not_after(server: &Server) -> Result<i64> {
    let host = server.host.trim_matches(['[', ']']);
    let mut addresses = (host, server.port).to_socket_addrs().context("unknown host")?;
    let address = addresses.next().context("the host has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, STEP_TIME_MAX)?;
    stream.set_read_timeout(Some(STEP_TIME_MAX))?;
    stream.set_write_timeout(Some(STEP_TIME_MAX))?;
    if !server.prelude.is_empty() {
        let mut answer = [0];
        stream.write_all(server.prelude)?;
        stream.read_exact(&mut answer)?;
        ensure!(&answer == b"S", "it does not speak TLS");
    }
    let certificate = handshake(&mut stream, host)?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&certificate)
        .context("its certificate cannot be read")?;
    Ok(certificate.validity().not_after.timestamp())
}

/// The certificate that the server shows. One that asks for ours shows its own first.
fn handshake(stream: &mut TcpStream, host: &str) -> Result<CertificateDer<'static>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unjudged(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned())?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    let mut outcome = Ok(());
    while outcome.is_ok() && connection.peer_certificates().is_none() {
        ensure!(connection.is_handshaking(), "it shows no certificate");
        outcome = connection.complete_io(stream).map(|_| ());
    }
    let shown = connection.peer_certificates().and_then(<[_]>::first).cloned();
    match (shown, outcome) {
        (Some(certificate), _) => Ok(certificate.into_owned()),
        (None, outcome) => outcome
            .and(Err(std::io::ErrorKind::UnexpectedEof.into()))
            .context("the TLS handshake failed"),
    }
}

/// Takes any certificate, since only its dates are read.
#[derive(Debug)]
struct Unjudged(Arc<CryptoProvider>);

impl ServerCertVerifier for Unjudged {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
