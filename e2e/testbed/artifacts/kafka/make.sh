# Apache Kafka's broker.
maven_jars
cp "$RECIPE/log4j2.yaml" "$OUT/"
