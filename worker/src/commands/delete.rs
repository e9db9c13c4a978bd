//! The `delete` command: deletes a file or a knowledge base from every store.

use mongodb::bson::DateTime;

use crate::assembly::Common;
use crate::document::task::Deletion;
use crate::pipeline::Deleter;
use crate::runtime::failure::Failure;

/// Runs the command. It does not need the model. An unknown knowledge base is refused: its id is
/// misspelt.
pub(crate) async fn run(common: &Common, deletion: &Deletion) -> Result<(), Failure> {
    let deleter = Deleter {
        stores: &common.stores().await?,
        retry: &common.retry(),
    };
    deleter.check(deletion, &common.stop).await?;
    deleter
        .delete(deletion, DateTime::now(), &common.stop)
        .await
}
