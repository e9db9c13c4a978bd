//! Milvus' error codes, of current and older servers.

use milvus::v2::prelude::ServerError;

pub(super) fn is_collection_not_found(error: &ServerError) -> bool {
    error.code() == 100 || error.legacy_code() == 4
}

/// The collection exists and is not loaded, or not completely.
pub(super) fn is_not_loaded(error: &ServerError) -> bool {
    matches!(error.code(), 101 | 103)
}

pub(super) fn is_index_not_found(error: &ServerError) -> bool {
    error.code() == 700 || error.legacy_code() == 25
}

/// The rate, memory, disk space, a quota of either, writes that an administrator has denied, or the
/// largest number of collections.
pub(super) fn is_throttled(error: &ServerError) -> bool {
    throttled(error.code(), error.legacy_code())
}

fn throttled(code: i32, legacy: i32) -> bool {
    matches!(code, 3 | 4 | 7 | 8 | 9 | 102) || matches!(legacy, 48 | 49 | 52..=54)
}

/// The request was not looked at: the server is not ready, or has no resources for it.
pub(super) fn is_unserved(error: &ServerError) -> bool {
    unserved(error.code(), error.legacy_code())
}

fn unserved(code: i32, legacy: i32) -> bool {
    matches!(code, 1..=9 | 11) || throttled(code, legacy)
}

/// A parameter that is invalid, missing or too large; a field that does not exist.
pub(super) fn is_invalid_request(error: &ServerError) -> bool {
    invalid_request(error.code(), error.legacy_code())
}

fn invalid_request(code: i32, legacy: i32) -> bool {
    matches!(code, 1100..=1102 | 1700 | 1701) || matches!(legacy, 5 | 7)
}

pub(super) fn is_forbidden(error: &ServerError) -> bool {
    matches!(error.code(), 1400..=1403) || error.legacy_code() == 3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What 2.3.5 answers, with the code of earlier servers: no memory or disk space, a limited number of
    /// requests, a limited rate, writes that are denied, the largest number of collections.
    const FULL: [(i32, i32); 6] = [(3, 52), (7, 54), (4, 49), (8, 49), (9, 48), (102, 1)];

    #[test]
    fn a_server_that_is_full_or_read_only_is_asked_again() {
        for (code, legacy) in FULL {
            assert!(throttled(code, legacy), "{code}");
            assert!(
                throttled(0, legacy) || legacy == 1,
                "an earlier server: {legacy}"
            );
            assert!(
                !invalid_request(code, legacy) && unserved(code, legacy),
                "{code}"
            );
        }
        assert!(throttled(0, 53), "an earlier server's quota of memory");
    }

    #[test]
    fn invalid_parameters_are_refusals_and_all_else_is_the_servers() {
        for code in [1100, 1101, 1102] {
            assert!(invalid_request(code, 1) && !throttled(code, 1) && !unserved(code, 1));
        }
        for code in [1, 2, 5, 100, 101, 106, 500, 600, 1200] {
            assert!(!invalid_request(code, 1), "the server's: {code}");
        }
    }

    #[test]
    fn a_refused_rename_was_looked_at_unless_the_server_was_not_ready() {
        // 65535: "duplicated new collection name".
        assert!(!unserved(65_535, 1) && !unserved(100, 4));
        for code in [1, 2, 5, 11] {
            assert!(unserved(code, 1), "{code}");
        }
    }
}
