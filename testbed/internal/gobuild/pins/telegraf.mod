module testbed.assets/telegraf

go 1.25.5

toolchain go1.26.0

require github.com/influxdata/telegraf v1.37.2
