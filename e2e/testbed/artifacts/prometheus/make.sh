# Prometheus and promtool, without the discovery of cloud services: targets come from files.
go_build '' '' -tags remove_all_sd \
  github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool
