//! CloudEvents in binary mode: attributes beside the data become one event in structured mode.
//!
//! The transport's own escapes are undone by whoever hands the attributes over: of HTTP with
//! [`unescape_header`].

use std::borrow::Cow;

use crate::{accept::Reject, scan::Scanner};

/// The event in structured mode, of attributes by name and the data as it came. `content_type` says
/// what the data is; without one it is JSON. Data that is not JSON is refused.
pub fn structured<'a>(
    attributes: impl IntoIterator<Item = (&'a str, Cow<'a, str>)>,
    content_type: Option<&str>,
    data: &[u8],
) -> Result<Vec<u8>, Reject> {
    let mut event = b"{".to_vec();
    for (name, value) in attributes {
        member(&mut event, name, text(&value).as_bytes());
    }
    if let Some(content_type) = content_type {
        member(&mut event, "datacontenttype", text(content_type).as_bytes());
    }
    let data = data.trim_ascii();
    if !data.is_empty() {
        member(&mut event, "data", json(content_type, data)?.as_bytes());
    }
    event.push(b'}');
    Ok(event)
}

/// The value of an HTTP header of CloudEvents: quotes and percent signs are undone.
pub fn unescape_header<'a>(name: &str, value: &'a [u8]) -> Result<Cow<'a, str>, Reject> {
    let unescaped = if value.iter().any(|byte| matches!(byte, b'%' | b'"')) {
        undo(value)
    } else {
        value.into()
    };
    let text = match unescaped {
        Cow::Borrowed(bytes) => str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    };
    text.ok_or_else(|| {
        let detail = format!("the header `ce-{name}` is not UTF-8");
        Reject::new("field_not_text", detail, "send UTF-8, each byte of it percent-encoded")
    })
}

fn undo(value: &[u8]) -> Cow<'_, [u8]> {
    percent_decoded(&unquoted(value)).into()
}

/// Without the quotes around parts of it, and without the backslashes in those.
fn unquoted(value: &[u8]) -> Vec<u8> {
    let (mut plain, mut quoted) = (Vec::with_capacity(value.len()), false);
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => plain.extend(bytes.next()),
            byte => plain.push(byte),
        }
    }
    plain
}

/// One round of decoding; a percent sign without two digits stands for itself.
fn percent_decoded(value: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((first, behind)) = rest.split_first() {
        let digit =
            |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let decoded = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low, behind))
            }
            _ => None,
        };
        let (byte, behind) = decoded.unwrap_or((*first, behind));
        plain.push(byte);
        rest = behind;
    }
    plain
}

/// The data as JSON text, if it is.
fn json<'a>(content_type: Option<&str>, data: &'a [u8]) -> Result<&'a str, Reject> {
    let refused = |detail: String| {
        Reject::new(
            "data_not_json",
            detail,
            "send the data as JSON, with Content-Type application/json",
        )
    };
    let media = content_type.unwrap_or_default().to_ascii_lowercase();
    let media = media.split(';').next().unwrap_or_default().trim();
    if !(matches!(media, "" | "application/json" | "text/json") || media.ends_with("+json")) {
        return Err(refused(format!("the data is {media}, and meters read JSON")));
    }
    let text = str::from_utf8(data).map_err(|error| {
        refused(format!("the data is not UTF-8 at byte {}", error.valid_up_to()))
    })?;
    let mut scanner = Scanner::new(text, 0);
    scanner.value(|_| {}).map_err(|error| refused(format!("the data is {error}")))?;
    match scanner.peek() {
        None => Ok(text),
        Some(_) => Err(refused(format!("the data is {}", scanner.error("its end")))),
    }
}

/// Appends a member of an object; the value is JSON text.
pub(crate) fn member(object: &mut Vec<u8>, name: &str, value: &[u8]) {
    if object.last() != Some(&b'{') {
        object.push(b',');
    }
    object.extend_from_slice(text(name).as_bytes());
    object.push(b':');
    object.extend_from_slice(value);
}

/// A text as JSON.
pub(crate) fn text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &[u8]) -> Result<String, &'static str> {
        unescape_header("x", value).map(Cow::into_owned).map_err(|reject| reject.code)
    }

    #[test]
    fn headers_are_unescaped_once() {
        assert_eq!(header(b"plain").unwrap(), "plain");
        assert_eq!(header(b"Euro%20%E2%82%AC%20%F0%9F%98%80").unwrap(), "Euro € 😀");
        assert_eq!(header(b"%2541").unwrap(), "%41");
        assert_eq!(header(br#""a \"b\" %22""#).unwrap(), r#"a "b" ""#);
        assert_eq!(header(b"100% %4").unwrap(), "100% %4");
        assert_eq!(header("ä".as_bytes()).unwrap(), "ä");
        assert_eq!(header(b"%ff"), Err("field_not_text"));
    }

    #[test]
    fn the_event_is_in_structured_mode() {
        let event = structured(
            [("id", "a\"b".into()), ("holdid", "7".into())],
            Some("application/json; charset=utf-8"),
            b" {\"n\": 1.50}\n",
        );
        assert_eq!(
            String::from_utf8(event.unwrap()).unwrap(),
            r#"{"id":"a\"b","holdid":"7","datacontenttype":"application/json; charset=utf-8","data":{"n": 1.50}}"#
        );
        assert_eq!(structured([("id", "1".into())], None, b"").unwrap(), br#"{"id":"1"}"#);
        for (content_type, data) in [
            (Some("text/plain"), &b"1"[..]),
            (None, b"1,\"id\":\"2\""),
            (None, b"{"),
            (Some("application/json"), b"\"\xff\""),
        ] {
            let reject = structured([("id", "1".into())], content_type, data).unwrap_err();
            assert_eq!(reject.code, "data_not_json");
        }
    }
}
