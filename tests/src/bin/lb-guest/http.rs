//! An HTTP response in one word that two servers have in common which say the same. Reads and writes no socket.

use std::collections::BTreeMap;

use serde_json::Value;

/// A GET after which the server closes.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";

/// Headers that say how and when, not what.
const OF_THE_CONNECTION: [&str; 4] = ["connection", "content-length", "date", "transfer-encoding"];

/// Status, headers in alphabetical order, and body, joined by semicolons. Names of headers are in lower case (RFC 9110,
/// 5.1), a body that is JSON is without white space. None for what is no HTTP response.
pub(crate) fn summary(response: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(response).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    let headers: BTreeMap<String, &str> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim()))
        .collect();
    let said = headers.iter().filter(|(name, _)| !OF_THE_CONNECTION.contains(&name.as_str()));
    let body = serde_json::from_str::<Value>(body).map_or_else(|_| body.to_owned(), |value| value.to_string());
    let parts = said.map(|(name, value)| format!("{name}:{value}")).chain([body]);
    Some(parts.fold(status.to_owned(), |word, part| word + ";" + &part).replace(' ', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_told_without_what_is_up_to_the_server() {
        let go = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nA-Weight: 2\r\nDate: x\r\n\r\n{\n\t\"n\": 2\n}";
        let other = "HTTP/1.1 200 OK\r\na-weight: 2\r\ncontent-type: text/plain\r\nContent-Length: 7\r\n\r\n{\"n\":2}";
        assert_eq!(summary(go.as_bytes()).unwrap(), r#"200;a-weight:2;content-type:text/plain;{"n":2}"#);
        assert_eq!(summary(go.as_bytes()), summary(other.as_bytes()));
        assert_eq!(summary(b"hello"), None);
    }
}
