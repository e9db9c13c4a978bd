//! What an S3 server says about a request that failed.

/// What the server answered to a request that failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// S3's word for the error. Empty if there is none.
    pub(super) code: String,
}

impl Answer {
    pub(super) fn is_forbidden(&self) -> bool {
        matches!(self.status, 401 | 403)
    }

    /// Whether no object can have this key.
    pub(super) fn is_impossible_key(&self) -> bool {
        matches!(
            self.code.as_str(),
            "KeyTooLongError" | "KeyTooLong" | "XMinioInvalidObjectName" | "InvalidObjectName"
        )
    }

    /// Whether the server refuses this request, rather than being slow, busy or set up wrongly.
    pub(super) fn is_refusal(&self) -> bool {
        let is_servers = matches!(self.status, 408 | 409 | 412 | 425 | 429)
            || matches!(
                self.code.as_str(),
                "RequestTimeout"
                    | "IncompleteBody"
                    | "BadDigest"
                    | "SlowDown"
                    | "InternalError"
                    | "ServiceUnavailable"
                    | "OperationAborted"
                    | "ExpiredToken"
                    | "InvalidToken"
                    | "TokenRefreshRequired"
                    | "RequestTimeTooSkewed"
                    | "AuthorizationHeaderMalformed"
            );
        (400..500).contains(&self.status) && !is_servers
    }
}

/// The server's answer. The client does not publish the type that holds it, so its text is read. A
/// test with a real request notices if that changes.
pub(super) fn answer(error: &object_store::Error) -> Option<Answer> {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if let Some(rest) = text.strip_prefix("Server returned non-2xx status code: ") {
            let code = rest.split_once("<Code>").map(|(_, rest)| rest);
            let code = code.and_then(|rest| rest.split_once("</Code>"));
            return Some(Answer {
                status: rest.get(..3)?.parse().ok()?,
                code: code.map_or(String::new(), |(code, _)| code.to_owned()),
            });
        }
        // One key of a request that deletes several.
        if text.starts_with("DeleteObjects request failed for key ") {
            let code = text.rsplit_once("(code: ")?.1.trim_end_matches(')');
            return Some(Answer {
                status: if code == "AccessDenied" { 403 } else { 400 },
                code: code.to_owned(),
            });
        }
        next = cause.source();
    }
    None
}

/// The text of an error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
