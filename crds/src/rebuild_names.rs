//! Names of the collections that exist only while another one is rebuilt.

/// How all of them begin.
const PREFIX: &str = "layra_reindex_";
/// Hexadecimal digits after the prefix.
const DIGITS: usize = 32;

/// Whether a collection exists only while another one is rebuilt: `layra_reindex_`, 32 hexadecimal
/// digits, `_` and its role. No knowledge base of LAYRA has a collection of such a name, whatever
/// the pipeline's template: LAYRA's ids end with a UUID in groups.
#[must_use]
pub fn is_rebuild_collection(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let Some((token, role)) = rest.split_once('_') else {
        return false;
    };
    let is_hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    token.len() == DIGITS && token.bytes().all(is_hexadecimal) && !role.is_empty()
}

/// The name of a collection with a role in the rebuild that `token`, 32 hexadecimal digits, names.
#[must_use]
pub fn rebuild_collection(token: &str, role: &str) -> String {
    format!("{PREFIX}{token}_{role}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_rebuilds_are_recognised() {
        let token = "0123456789abcdef0123456789abcdef";
        assert!(is_rebuild_collection(&rebuild_collection(token, "new")));
        assert!(is_rebuild_collection(&rebuild_collection(token, "other3")));
        for name in [
            "colqwenroger_26eba553_dbee_474c_987f_6bd8c0ed6e1a",
            "layra_reindex_26eba553_dbee_474c_987f_6bd8c0ed6e1a",
            "layra_reindex_0123456789abcdef0123456789abcdef",
            "layra_reindex_0123456789ABCDEF0123456789ABCDEF_new",
            "layra_reindex_new",
        ] {
            assert!(!is_rebuild_collection(name), "{name}");
        }
    }
}
