//! One kept connection that posts bodies: plain HTTP/1.1 on a blocking socket.
//!
//! The generator shares the machine with what it measures, so this does what a lean client does and
//! nothing more: one write and a few reads per request.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

/// Longer than the server works on any request.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);
/// Digits of a body's length, leading zeros included.
const LENGTH_DIGITS: usize = 10;
const ANSWER_BYTES_MAX: usize = 16 << 20;
const READ_BYTES: usize = 64 << 10;

/// A connection and its buffers.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// A request's head, of each tenant.
    heads: Arc<[Vec<u8>]>,
    /// The request: head, then body.
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// What was answered; the body is [`Connection::body`].
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// How long the server asks to wait.
    pub retry_after: Option<Duration>,
    body_at: usize,
}

impl Connection {
    /// Posts JSON to `address` with some [`heads`]. Connects when there is something to send.
    pub fn new(address: SocketAddr, heads: &Arc<[Vec<u8>]>) -> Self {
        Self {
            address,
            stream: None,
            heads: Arc::clone(heads),
            request: Vec::new(),
            answer: Vec::new(),
        }
    }

    /// Makes the next request, of a tenant's head and the body that `write` makes.
    pub fn prepare(&mut self, tenant: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let head = self.heads.get(tenant).map(Vec::as_slice).unwrap_or_default();
        self.request.clear();
        self.request.extend_from_slice(head);
        write(&mut self.request);
        let length = format!("{:0LENGTH_DIGITS$}", self.request.len() - head.len());
        let at = head.len().saturating_sub(4 + LENGTH_DIGITS);
        if let Some(place) = self.request.get_mut(at..at + LENGTH_DIGITS) {
            place.copy_from_slice(length.as_bytes());
        }
    }

    /// Sends the prepared request, again if it was sent before. After an error nobody knows what
    /// became of it, and the next one gets a new connection.
    pub fn send(&mut self) -> io::Result<Answer> {
        let answer = self.exchange();
        if answer.is_err() {
            self.stream = None;
        }
        answer
    }

    /// The body of an answer.
    pub fn body(&self, answer: &Answer) -> &[u8] {
        self.answer.get(answer.body_at..).unwrap_or_default()
    }

    fn exchange(&mut self) -> io::Result<Answer> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(connect(self.address)?),
        };
        stream.write_all(&self.request)?;
        self.answer.clear();
        loop {
            let length = self.answer.len();
            self.answer.resize(length + READ_BYTES, 0);
            let read = stream.read(self.answer.get_mut(length..).unwrap_or_default())?;
            self.answer.truncate(length + read);
            if let Some((answer, length)) = parse(&self.answer)?
                && self.answer.len() >= answer.body_at + length
            {
                return Ok(answer);
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(invalid("an answer without an end"));
            }
        }
    }
}

/// Heads of requests to `path` of `address`, with a key each.
pub fn heads(address: SocketAddr, path: &str, keys: &[String]) -> Arc<[Vec<u8>]> {
    let head = |key: &String| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {:0LENGTH_DIGITS$}\r\n\r\n",
            0
        )
        .into_bytes()
    };
    keys.iter().map(head).collect()
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_TIME_MAX)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
    stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
    Ok(stream)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The head, once it is whole, and the length of the body behind it.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default())
        .map_err(|_| invalid("a head that is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let (mut length, mut retry_after) = (None, None);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("retry-after") {
            retry_after = value.trim().parse().ok().map(Duration::from_secs);
        }
    }
    let status = status.ok_or_else(|| invalid("an answer without a status"))?;
    let length = length.ok_or_else(|| invalid("an answer without a length"))?;
    Ok(Some((Answer { status, retry_after, body_at: end + 4 }, length)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_connection_is_kept_and_replaced_when_it_breaks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = heads(address, "/v1/events", &["other".to_owned(), "secret".to_owned()]);
        let mut connection = Connection::new(address, &heads);
        let server = std::thread::Builder::new().spawn(move || {
            let mut requests = Vec::new();
            let (mut first, _) = listener.accept().unwrap();
            for answer in
                ["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 503 No\r\nRetry-"]
            {
                let mut request = vec![0; 4_096];
                let length = first.read(&mut request).unwrap();
                requests.push(String::from_utf8_lossy(&request[..length]).into_owned());
                first.write_all(answer.as_bytes()).unwrap();
            }
            drop(first);
            let (mut second, _) = listener.accept().unwrap();
            second
                .write_all(b"HTTP/1.1 503 No\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
            requests
        });
        connection.prepare(1, |body| body.extend_from_slice(b"[1]"));
        let answer = connection.send().unwrap();
        assert_eq!((answer.status, connection.body(&answer)), (200, &b"ok"[..]));
        connection.prepare(0, |body| body.extend_from_slice(b"[1,2]"));
        assert_eq!(connection.send().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let answer = connection.send().unwrap();
        assert_eq!((answer.status, answer.retry_after), (503, Some(Duration::from_secs(2))));
        let requests = server.unwrap().join().unwrap();
        assert!(requests[0].contains("Bearer secret\r\n"), "{}", requests[0]);
        assert!(requests[0].ends_with("Content-Length: 0000000003\r\n\r\n[1]"), "{}", requests[0]);
        assert!(
            requests[1].ends_with("Content-Length: 0000000005\r\n\r\n[1,2]"),
            "{}",
            requests[1]
        );
    }
}
