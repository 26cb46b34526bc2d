//! A kubeconfig for a server.

use serde_json::json;

/// A kubeconfig with one context, as JSON, which is YAML. `url` as `https://127.0.0.1:6443`; `authority` is the PEM of
/// [`crate::Authority::pem`].
pub fn kubeconfig(url: &str, authority: Option<&str>, token: Option<&str>) -> String {
    let mut cluster = json!({"server": url});
    if let Some(pem) = authority {
        cluster["certificate-authority-data"] = json!(base64(pem.as_bytes()));
    }
    let user = token.map_or(json!({}), |token| json!({"token": token}));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fairway",
        "clusters": [{"name": "fairway", "cluster": cluster}],
        "users": [{"name": "fairway", "user": user}],
        "contexts": [{"name": "fairway", "context": {"cluster": "fairway", "user": "fairway", "namespace": "default"}}],
    });
    format!("{config:#}\n")
}

/// Standard base64 (RFC 4648 section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            let known = digit <= group.len();
            text.push(if known { ALPHABET.get(index).map_or('=', |b| char::from(*b)) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let cases = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let wanted = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(cases.map(|c| base64(c.as_bytes())), wanted);
    }
}
