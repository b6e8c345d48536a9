#!/usr/bin/env bash
# Measures poolyhttp beside http.Transport and writes the table in HTTP.md. About five
# minutes; on an otherwise idle machine, please.
#
#   COUNT=5 TURNS=100 bench/http.sh
#
# Within a pass each transport has TURNS turns of each case. The table has the medians of the passes.
set -euo pipefail
cd "$(dirname "$0")"
count=${COUNT:-5} turns=${TURNS:-100}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
go test -c -o "$scratch/bench" .
for ((pass = 1; pass <= count; pass++)); do
	echo "pass $pass of $count" >&2
	"$scratch/bench" -test.run '^$' -test.bench '^BenchmarkHTTP$' -test.benchtime "${turns}x" >>"$scratch/raw.txt"
done
go run ./cmd/report -raw "$scratch/raw.txt" -how "COUNT=$count TURNS=$turns bench/http.sh" -http HTTP.md
