//! Settings of LAYRA itself, which no server can tell.

use layra_crds::Finding;

use super::finding::Server;

pub(super) fn findings() -> Vec<Finding> {
    let layra = Server::new("LAYRA");
    vec![
        layra.advice(
            "SQLAlchemy echo",
            "off",
            "DEBUG_MODE=false in LAYRA's .env (mysql_session.py): it logs every statement",
        ),
        layra.advice(
            "Redis pool",
            "50 connections",
            "max_connections=50 and socket_keepalive=True in LAYRA's redis.py",
        ),
        layra.advice(
            "Kafka producer",
            "compression, acks=all",
            "compression_type='snappy' in LAYRA's kafka_producer.py. Not acks=1, as the guide \
             says: a broker that fails would lose acknowledged tasks",
        ),
    ]
}
