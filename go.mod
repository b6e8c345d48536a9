module github.com/3XX0/pooly

go 1.26.0

require (
	github.com/cactus/go-statsd-client/v5 v5.1.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
	pgregory.net/rapid v1.3.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
