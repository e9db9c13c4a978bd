//! The trace that a message belongs to, in the headers `traceparent` and `tracestate`, as the W3C
//! defines them.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector};
use rdkafka::message::{Headers, OwnedHeaders};

use super::headers;
use crate::runtime::traces;

/// The headers of a message's trace.
const NAMES: [&str; 2] = ["traceparent", "tracestate"];

/// The trace of a message. Empty without valid headers: the message begins a trace.
pub(crate) fn of(headers: Option<&OwnedHeaders>) -> Context {
    traces::extract(&Carrier(headers.cloned().unwrap_or_default()))
}

/// The headers of a message that is sent now: in the trace of the span that is worked on. Without
/// one they stay as they are.
pub(crate) fn carried(headers: OwnedHeaders) -> OwnedHeaders {
    let mut added = Carrier(OwnedHeaders::new());
    traces::inject(&mut added);
    if added.0.count() == 0 {
        return headers;
    }
    let others = headers.iter().filter(|header| !NAMES.contains(&header.key));
    let all = others.chain(added.0.iter());
    all.fold(OwnedHeaders::new(), OwnedHeaders::insert)
}

struct Carrier(OwnedHeaders);

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        let header = self.0.iter().find(|header| header.key == key)?;
        std::str::from_utf8(header.value?).ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|header| header.key).collect()
    }
}

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        if !value.is_empty() {
            self.0 = headers::with(std::mem::take(&mut self.0), key, &value);
        }
    }
}
