//! A request of ClickHouse's HTTP interface, read from its URL, headers and body.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Method, header};
use bytes::Bytes;

use super::{
    blocks::decompress,
    engine::BODY_BYTES_MAX,
    pool::{Work, check_setting},
    statement::{Parameters, Refusal, Statement, only_reads, prepare},
};

/// ClickHouse's codes for what we refuse ourselves.
const BAD_ARGUMENTS: u32 = 36;
const SUPPORT_IS_DISABLED: u32 = 344;
const READONLY: u32 = 164;

/// URL parameters of the interface that are neither settings nor values and change nothing here.
const IGNORED: [&str; 12] = [
    "user",
    "password",
    "query_id",
    "quota_key",
    "role",
    "wait_end_of_query",
    "buffer_size",
    "send_progress_in_http_headers",
    "http_headers_progress_interval_ms",
    "cancel_http_readonly_queries_on_client_close",
    "enable_http_compression",
    "http_zlib_compression_level",
];

/// URL parameters that a client means and that this front cannot do.
const REFUSED: [(&str, &str); 2] = [
    ("session_id", "sessions are not kept"),
    ("compress", "answers in compressed native blocks are not made; ask without compress"),
];

/// Reads one request.
pub(super) fn read(
    method: &Method,
    url_query: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Work, Refusal> {
    let mut fields = Fields::default();
    for (name, value) in form_pairs(url_query) {
        fields.take(&name, value)?;
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::new(SUPPORT_IS_DISABLED, "send the body without Content-Encoding"));
    }
    let body = match multipart_boundary(headers) {
        Some(boundary) => {
            for (name, value) in multipart(&body, &boundary)? {
                fields.take(&name, value)?;
            }
            Bytes::new()
        }
        None if fields.decompress => {
            decompress(&body, BODY_BYTES_MAX).map_err(|fault| Refusal::new(BAD_ARGUMENTS, fault))?
        }
        None => body,
    };
    let statement = prepare(&fields.query, body, &fields.parameters)?;
    if method == Method::GET {
        refuse_writing(&statement)?;
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Ok(Work {
        statement,
        database: or_else(fields.database, header("x-clickhouse-database"), "default"),
        format: or_else(fields.format, header("x-clickhouse-format"), "TabSeparated"),
        settings: fields.settings,
    })
}

fn or_else(field: String, header: Option<&str>, usual: &str) -> String {
    if field.is_empty() { header.unwrap_or(usual).to_owned() } else { field }
}

fn refuse_writing(statement: &Statement) -> Result<(), Refusal> {
    match statement {
        Statement::Plain(sql) if only_reads(sql) => Ok(()),
        _ => Err(Refusal::new(READONLY, "Cannot execute query in readonly mode: use POST")),
    }
}

#[derive(Default)]
struct Fields {
    query: String,
    database: String,
    format: String,
    decompress: bool,
    parameters: Parameters,
    settings: BTreeMap<String, String>,
}

impl Fields {
    fn take(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name)
            && value != "0"
        {
            return Err(Refusal::new(SUPPORT_IS_DISABLED, format!("{name}: {reason}")));
        }
        match name {
            "query" => self.query.push_str(&value),
            "database" => self.database = value,
            "default_format" => self.format = value,
            "decompress" => self.decompress = value == "1",
            "compress" | "session_id" => {}
            _ if IGNORED.contains(&name) => {}
            _ => match name.strip_prefix("param_") {
                Some(parameter) => {
                    self.parameters.insert(parameter.to_owned(), value);
                }
                None => {
                    check_setting(name)?;
                    self.settings.insert(name.to_owned(), value);
                }
            },
        }
        Ok(())
    }
}

/// The pairs of a URL's query.
fn form_pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (form_decode(name), form_decode(value))
    })
}

fn form_decode(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let digits = (ahead.next().and_then(hex), ahead.next().and_then(hex));
        match (byte, digits) {
            (b'%', (Some(high), Some(low))) => {
                decoded.push(high * 16 + low);
                bytes = ahead;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn multipart_boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let parameters = kind.strip_prefix("multipart/form-data")?;
    let (_, boundary) = parameters.split_once("boundary=")?;
    Some(boundary.split(';').next()?.trim_matches('"').to_owned())
}

/// The fields of a form: the shape in which clients send a statement with its parameters.
fn multipart(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Refusal> {
    let wrong = || Refusal::new(BAD_ARGUMENTS, "the multipart body is not well formed");
    let text = std::str::from_utf8(body).map_err(|_| wrong())?;
    let mark = format!("--{boundary}");
    let rest = text.strip_prefix(mark.as_str()).ok_or_else(wrong)?;
    let mut fields = Vec::new();
    for part in rest.split(&format!("\r\n{mark}")) {
        let Some(part) = part.strip_prefix("\r\n") else {
            // What follows the last mark is `--`.
            break;
        };
        let (head, value) = part.split_once("\r\n\r\n").ok_or_else(wrong)?;
        let (_, name) = head.split_once("name=\"").ok_or_else(wrong)?;
        let (name, _) = name.split_once('"').ok_or_else(wrong)?;
        fields.push((name.to_owned(), value.to_owned()));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(
        url: &str,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Result<Work, u32> {
        let headers =
            headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        read(&Method::POST, url, &headers, Bytes::from_static(body.as_bytes()))
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn the_url_names_query_settings_and_values() {
        let work = post(
            "query=SELECT+%7Ba%3AUInt8%7D%20%25&param_a=1&max_threads=2&database=d&user=x",
            &[],
            "",
        )
        .unwrap();
        assert_eq!(work.statement, Statement::Plain(b"SELECT _CAST('1', 'UInt8') %".to_vec()));
        assert_eq!((work.database.as_str(), work.format.as_str()), ("d", "TabSeparated"));
        assert_eq!(work.settings, BTreeMap::from([("max_threads".to_owned(), "2".to_owned())]));
    }

    #[test]
    fn a_form_carries_query_and_values() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n\
                    --b\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\nx\r\ny\r\n--b--\r\n";
        let work = post(
            "default_format=JSON",
            &[("content-type", "multipart/form-data; boundary=b")],
            body,
        )
        .unwrap();
        assert_eq!(work.statement, Statement::Plain(b"SELECT _CAST('x\r\ny', 'String')".to_vec()));
        assert_eq!(work.format, "JSON");
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        assert_eq!(post("session_id=1", &[], "SELECT 1").err(), Some(SUPPORT_IS_DISABLED));
        assert_eq!(post("compress=1", &[], "SELECT 1").err(), Some(SUPPORT_IS_DISABLED));
        assert_eq!(
            post("", &[("content-encoding", "gzip")], "SELECT 1").err(),
            Some(SUPPORT_IS_DISABLED)
        );
        // A compressed block that claims half a gigabyte for its only byte.
        let claims = "0123456789abcdef\x02\x0a\0\0\0\0\0\0\x20x";
        let decompressed = post("decompress=1&query=INSERT+INTO+t+FORMAT+CSV", &[], claims);
        assert_eq!(decompressed.err(), Some(BAD_ARGUMENTS));
        assert_eq!(post("a%3D1%3Bb=1", &[], "SELECT 1").err(), Some(115));
        let get = |sql: &str| {
            read(&Method::GET, &format!("query={sql}"), &HeaderMap::new(), Bytes::new()).err()
        };
        assert_eq!(get("DROP+TABLE+t").map(|refusal| refusal.code), Some(READONLY));
        assert_eq!(get("SELECT+1"), None);
    }
}
