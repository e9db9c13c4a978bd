//! What to do about a dead letter, by its reason. The table of `docs/failures.md` says it too.

/// What to do about a dead letter with this reason. `None`: for a reason that nothing helps against,
/// or that this version does not know.
pub(super) fn what_to_do(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "NotJson" | "InvalidTask" => "Fix the producer, which must send the task again.",
        "InvalidRange" => "Check who writes to the topic of the page ranges.",
        "ObjectNotFound" => "Upload the original under its key, then redrive.",
        "ObjectTooLarge" | "DocumentTooLarge" => "Split the document, and upload its parts.",
        "OriginalChanged" | "CollectionGone" => "Redrive.",
        "Encrypted" => "Upload the document without a password.",
        "Damaged" | "DamagedPage" | "TooManyBadPages" => {
            "Repair the document, and upload it again."
        }
        "Empty" | "TooLarge" => "Upload another version of the document.",
        "TooManyPages" => "Raise documents.render.maxPages, then redrive.",
        "TooMuchCpuTime" => {
            "Raise documents.limits.maxCpuSeconds, then redrive. Or split the document."
        }
        "TooManyVectors" => {
            "Raise documents.limits.maxVectors, then redrive. Or split the document."
        }
        "Unsupported" => {
            "Choose an image that supports the format (worker.image; office documents need the \
             office image), then redrive."
        }
        "TimedOut" => {
            "Raise documents.render.timeoutSeconds, for an office document officeTimeoutSeconds, \
             then redrive."
        }
        "Crashed" | "GarbledAnswer" | "EmbeddingFailed" => "Report it, with the document.",
        "OutOfMemory" => {
            "In stage render the document needs more memory than a renderer may take. In stage \
             embed: lower embedding.maxVisualTokens or the precision, or choose a larger GPU, then \
             redrive."
        }
        "RendererKilled" => "Raise the workers' memory limit, then redrive.",
        "RendererStalled" => "Give the workers a CPU request, then redrive.",
        "WorkersDied" => {
            "Follow what the message quotes, or check the workers' memory limit; then redrive."
        }
        "KnowledgeBaseNotFound" => "Create the knowledge base, then redrive.",
        "KnowledgeBaseFull" => "Delete files of the knowledge base, then redrive.",
        "KnowledgeBaseArchived" => {
            "Restore the knowledge base with layra-worker restore, then redrive."
        }
        "DimensionMismatch" => {
            "Use the model that the collection was created for, then redrive. Or delete the knowledge \
             base."
        }
        "InvalidVectors" | "DocumentNotStorable" => "Report it.",
        "VectorsNotFinite" => "Report it, with the document and the model.",
        "ObjectStoreRefused" => "Rename the file or allow the access, then redrive.",
        "MongodbRefused" | "MilvusRefused" => "Fix the cause that the server names, then redrive.",
        "MessageTooLarge" => "Raise max.message.bytes of the topic, then redrive.",
        "TopicNotFound" => "Create the topic, then redrive.",
        "Unknown" => "Check the message.",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::failure::Reason;

    #[test]
    fn every_reason_of_a_dead_letter_in_the_book_has_an_advice() {
        let guide = include_str!("../../../../docs/failures.md");
        let table = guide.split("| reason of a dead letter |").nth(1).unwrap();
        let table = table.split("\n\n").next().unwrap();
        let rows = table.lines().filter_map(|row| row.strip_prefix("| `"));
        let reasons: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        assert!(reasons.len() > 30, "{reasons:?}");
        for reason in reasons {
            assert!(what_to_do(reason).is_some(), "{reason}");
            let known = Reason::ALL.iter().any(|known| known.as_str() == reason);
            assert!(known, "{reason}");
        }
        assert_eq!(what_to_do("FromTheFuture"), None);
    }
}
