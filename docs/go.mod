// The documents are a module of their own, so that their pictures are not in the zip of the root, which
// every user downloads.
module github.com/3XX0/pooly/docs

go 1.26.0

replace github.com/3XX0/pooly => ../

require (
	github.com/3XX0/pooly v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/cactus/go-statsd-client/v5 v5.1.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
