//! The `delete` command: a file or a knowledge base out of every store.

use crate::assembly::Common;
use crate::document::task::Deletion;
use crate::pipeline::Deleter;
use crate::runtime::failure::Failure;

/// Deletes. The model is not needed.
pub async fn run(common: &Common, deletion: &Deletion) -> Result<(), Failure> {
    let deleter = Deleter {
        stores: &common.stores().await?,
        retry: &common.retry(),
    };
    deleter.delete(deletion, &common.stop).await
}
