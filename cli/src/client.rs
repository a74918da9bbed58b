//! A client of Weir's own HTTP interface, for the commands that talk to one that runs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, StatusCode, header};
use serde_json::Value;

use crate::endpoints::Endpoints;

/// Longer than the server works on any request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(40);
/// Times that a request is sent while a neighbour of the server is away.
const ATTEMPTS_MAX: u32 = 20;

/// Which Weir a command talks to.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// Address of Weir, such as http://127.0.0.1:8080; by default that of the `weir up` in --data
    #[arg(long, env = "WEIR_URL", requires = "key")]
    url: Option<String>,
    /// API key; by default the one of the `weir up` in --data
    #[arg(long, env = "WEIR_API_KEY", hide_env_values = true, requires = "url")]
    key: Option<String>,
    /// Folder of a `weir up`
    #[arg(long, value_name = "DIR", default_value = ".weir")]
    data: PathBuf,
}

impl Target {
    /// A client of the target as it is now; one in a folder may move when it is started again.
    pub fn client(&self) -> Result<Client> {
        match (&self.url, &self.key) {
            (Some(url), Some(key)) => Client::new(url, key),
            _ => {
                let endpoints = Endpoints::read(&self.data)?;
                Client::new(&endpoints.http, &endpoints.admin_key)
            }
        }
    }
}

/// An address and a key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body; null if it is not JSON.
    pub body: Value,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
}

impl Client {
    /// A client of `base` with `key`.
    pub fn new(base: &str, key: &str) -> Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        let mut http = reqwest::Client::builder().timeout(REQUEST_TIME_MAX);
        let local = ["http://127.", "http://localhost", "http://[::1]"];
        if local.iter().any(|prefix| base.starts_with(prefix)) {
            http = http.no_proxy();
        }
        let http = http.build().context("cannot make an HTTP client")?;
        Ok(Self { http, base, key: key.to_owned() })
    }

    /// Asks for `path` and fails on anything but success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.send(Method::GET, path, "application/json", Vec::new(), &[]).await?;
        answer.success(path)
    }

    /// Sends `body` and gives the answer, whatever it is. An error is a request without an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let mut request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.key)
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response =
            request.send().await.with_context(|| format!("no answer from {}", self.base))?;
        let status = response.status();
        let seconds = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response
            .bytes()
            .await
            .with_context(|| format!("the answer of {} was cut off", self.base))?;
        let body = serde_json::from_slice(&text).unwrap_or_default();
        Ok(Answer { status, body, retry_after: seconds.map(Duration::from_secs) })
    }

    /// The same address with another key.
    pub fn with_key(&self, key: String) -> Client {
        Client { key, ..self.clone() }
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Sends a request whose repeat does nothing more, again while the server asks for it: a
    /// neighbour of it is away, or has just started. Gives the last answer.
    pub async fn send_patiently(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let json = "application/json";
        for _ in 1..ATTEMPTS_MAX {
            let answer = self.send(method.clone(), path, json, body.clone(), headers).await?;
            match answer.retry_after {
                Some(wait) if !answer.status.is_success() => tokio::time::sleep(wait).await,
                _ => return Ok(answer),
            }
        }
        self.send(method, path, json, body, headers).await
    }
}

impl Answer {
    /// The body of a success; the problem's own words otherwise.
    pub fn success(self, what: &str) -> Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let text =
            |name: &str| self.body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        bail!("{what}: {} {} {} {}", self.status, text("code"), text("detail"), text("action"));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request after the other, and gives their number.
    fn answering(answers: &'static [&'static str]) -> (String, std::thread::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::Builder::new().spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 4_096]).unwrap();
                let head = format!("HTTP/1.1 {answer}\r\nConnection: close\r\n");
                stream.write_all(format!("{head}Content-Length: 0\r\n\r\n").as_bytes()).unwrap();
            }
            answers.len()
        });
        (base, server.unwrap())
    }

    #[tokio::test]
    async fn a_request_is_sent_again_while_the_server_asks_for_it() {
        const AGAIN: &str = "503 No\r\nRetry-After: 0";
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (answers, status) in [
            (&[AGAIN, AGAIN, "200 Yes"][..], StatusCode::OK),
            (&["422 Never"][..], StatusCode::UNPROCESSABLE_ENTITY),
        ] {
            let (base, server) = answering(answers);
            let client = Client::new(&base, "key").unwrap();
            let answer = client.send_patiently(Method::PUT, "/", Vec::new(), &[]).await.unwrap();
            assert_eq!(answer.status, status);
            // All of them were asked for.
            assert_eq!(server.join().unwrap(), answers.len());
        }
    }
}
