module github.com/3XX0/pooly/poolygrpc

go 1.26.0

replace github.com/3XX0/pooly => ../

require (
	github.com/3XX0/pooly v0.0.0-00010101000000-000000000000
	github.com/cncf/xds/go v0.0.0-20260202195803-dba9d589def2
	github.com/stretchr/testify v1.12.1
	go.uber.org/goleak v1.3.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/cactus/go-statsd-client/v5 v5.1.0 // indirect
	github.com/envoyproxy/protoc-gen-validate v1.3.3 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
)
