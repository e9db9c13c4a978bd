//! The `delete` command: deletes a file or a knowledge base from every store.

use mongodb::bson::DateTime;

use crate::assembly::Common;
use crate::document::Cutoff;
use crate::document::task::Deletion;
use crate::kafka::ends::task_ends;
use crate::pipeline::Deleter;
use crate::runtime::failure::{Failure, Stage};

/// Runs the command. It does not need the model. An unknown knowledge base is refused: its id is
/// misspelt.
///
/// The ends of the tasks' topic tell the tasks that were sent before from those that are sent
/// later, whatever the clocks say.
pub(crate) async fn run(common: &Common, deletion: &Deletion) -> Result<(), Failure> {
    let (stores, retry, stop) = (common.stores().await?, common.retry(), &common.stop);
    let deleter = Deleter {
        stores: &stores,
        retry: &retry,
    };
    deleter.check(deletion, stop).await?;
    let read = |_| task_ends(&common.settings);
    let ends = retry.run(Stage::Intake, stop, read).await?;
    let topic = &common.settings.config.source.kafka.topic;
    let cutoff = Cutoff::of_command(topic, &ends, DateTime::now());
    deleter.delete(deletion, &cutoff, stop).await
}
