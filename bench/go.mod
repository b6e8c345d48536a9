module github.com/3XX0/pooly/bench

go 1.26.0

replace github.com/3XX0/pooly => ../

require (
	github.com/3XX0/pooly v0.0.0-00010101000000-000000000000
	github.com/bitly/go-hostpool v0.1.0
	github.com/cactus/go-statsd-client/v5 v5.1.0
	github.com/jackc/puddle/v2 v2.2.3
	github.com/jolestar/go-commons-pool/v2 v2.1.2
	golang.org/x/perf v0.0.0-20260908200009-22c9c6c9d4da
)

require (
	github.com/aclements/go-moremath v0.0.0-20210112150236-f10218a38794 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

tool golang.org/x/perf/cmd/benchstat
