//! The settings of topics: replication factors and configurations, for many topics at once.

use std::{collections::HashMap, time::Duration};

use rdkafka::{ClientContext, bindings as rd, client::Client, error::KafkaResult};

use super::{Guard, Names, call, check, descriptions, not_null, text};

/// The smallest number of replicas of a partition, of each topic that can be described.
pub(in crate::kafka) fn replication_factors<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    timeout: Duration,
) -> KafkaResult<HashMap<String, i32>> {
    // SAFETY: the description lives during the call.
    let fewest = descriptions(client, topics, timeout, |description| unsafe {
        let mut partitions = 0;
        let infos = rd::rd_kafka_TopicDescription_partitions(description, &raw mut partitions);
        let replicas = (0..partitions).map(|partition| {
            let mut replicas = 0;
            rd::rd_kafka_TopicPartitionInfo_replicas(*infos.add(partition), &raw mut replicas);
            i32::try_from(replicas).unwrap_or(i32::MAX)
        });
        replicas.min()
    })?;
    let known = fewest.into_iter();
    Ok(known
        .filter_map(|(topic, fewest)| Some((topic, fewest?)))
        .collect())
}

/// The values of `keys` in the configuration of each topic that can be described.
pub(in crate::kafka) fn configurations<C: ClientContext>(
    client: &Client<C>,
    topics: &[&str],
    keys: &[&str],
    timeout: Duration,
) -> KafkaResult<HashMap<String, HashMap<String, String>>> {
    let names = Names::new(topics)?;
    let mut found = HashMap::with_capacity(topics.len());
    // SAFETY: `names` and `resources` outlive the call, which copies them; pointers of the result
    // are used while its event lives.
    unsafe {
        let resources: Vec<Guard<rd::rd_kafka_ConfigResource_t>> = names
            .pointers()
            .into_iter()
            .map(|name| {
                let topic = rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
                Guard(
                    rd::rd_kafka_ConfigResource_new(topic, name),
                    rd::rd_kafka_ConfigResource_destroy,
                )
            })
            .collect();
        let mut pointers: Vec<_> = resources.iter().map(|resource| resource.0).collect();
        let operation = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        let event = call(client, operation, timeout, |options, queue| {
            rd::rd_kafka_DescribeConfigs(
                client.native_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
                options,
                queue,
            );
        })?;
        let result = not_null(rd::rd_kafka_event_DescribeConfigs_result(event.0))?;
        let mut count = 0;
        let answers = rd::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        for index in 0..count {
            let answer = *answers.add(index);
            if check(rd::rd_kafka_ConfigResource_error(answer)).is_err() {
                continue;
            }
            let mut entries = 0;
            let configs = rd::rd_kafka_ConfigResource_configs(answer, &raw mut entries);
            let values = (0..entries).filter_map(|entry| {
                let entry = *configs.add(entry);
                let key = text(rd::rd_kafka_ConfigEntry_name(entry));
                keys.contains(&key.as_str())
                    .then(|| (key, text(rd::rd_kafka_ConfigEntry_value(entry))))
            });
            let values = values.collect();
            found.insert(text(rd::rd_kafka_ConfigResource_name(answer)), values);
        }
    }
    Ok(found)
}
