//! Whether a collection must be embedded again. No I/O.

use crate::document::Fingerprint;
use crate::stores::collection_models::{Record, UNKNOWN};

/// Why a collection must be embedded again with a model, for people. `None`: its vectors are of this
/// model. Of a collection that has no record, only `is_named`, somebody's choice, says that they are
/// not.
pub(in super::super) fn difference(
    record: Option<&Record>,
    own: &Fingerprint,
    is_named: bool,
) -> Option<String> {
    let is_known = record.is_some_and(|record| record.model.is_some());
    let differs = record.and_then(|record| record.difference(own));
    differs.or_else(|| (is_named && !is_known).then(|| UNKNOWN.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::fingerprint::a_fingerprint;

    #[test]
    fn only_collections_of_another_model_are_embedded_again() {
        let (own, other) = (a_fingerprint("minilm", "1"), a_fingerprint("minilm", "2"));
        let of_own = Record::new(7, "c", Some(&own));
        let of_other = Record::new(7, "c", Some(&other));
        for is_named in [false, true] {
            assert_eq!(difference(Some(&of_own), &own, is_named), None);
            let why = difference(Some(&of_other), &own, is_named).unwrap();
            assert!(
                why.contains("checksum 2") && why.contains("instead of"),
                "{why}"
            );
        }
    }

    #[test]
    fn a_collection_of_an_unknown_model_is_embedded_again_only_if_it_is_named() {
        let own = a_fingerprint("minilm", "1");
        assert_eq!(difference(None, &own, false), None);
        assert!(difference(None, &own, true).is_some());
    }

    #[test]
    fn a_collection_that_a_lost_run_has_sealed_is_embedded_again() {
        let own = a_fingerprint("minilm", "1");
        for model in [Some(&own), None] {
            let sealed = Record {
                replaced_for: Some(a_fingerprint("minilm", "2")),
                ..Record::new(7, "c", model)
            };
            assert!(difference(Some(&sealed), &own, false).is_some());
        }
    }
}
