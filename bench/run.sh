#!/usr/bin/env bash
# Runs all benchmarks and writes RESULTS.md and results.svg, and a few rows of the table into ../README.md if
# that has the markers for it. About twenty minutes; on an otherwise idle machine, please.
#
#   COUNT=10 BENCHTIME=200ms bench/run.sh
#
# The repetitions are passes over all benchmarks, not -count, which would repeat each in place: so all
# contestants share whatever slow minutes the machine has.
set -euo pipefail
cd "$(dirname "$0")"
count=${COUNT:-10} benchtime=${BENCHTIME:-200ms}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
go test -c -o "$scratch/bench" .
go build -o "$scratch/report" ./cmd/report
"$scratch/bench" -test.run TestFIFO

for ((pass = 1; pass <= count; pass++)); do
	echo "pass $pass of $count" >&2
	"$scratch/bench" -test.run '^$' -test.bench '^Benchmark(Pair|Floor|Contended|TCP|TCPOverhead|Peek|Metrics|Churn)$' \
		-test.benchtime "$benchtime" >>"$scratch/raw.txt"
	"$scratch/bench" -test.run '^$' -test.bench '^Benchmark(AddRemove|Refresh)$' -test.benchtime 1x >>"$scratch/raw.txt"
	"$scratch/bench" -test.run '^$' -test.bench '^BenchmarkFootprint$' -test.benchtime 1x -test.memprofilerate 1 \
		>>"$scratch/raw.txt"
done

go tool benchstat "medians=$scratch/raw.txt" >"$scratch/benchstat.txt"
"$scratch/report" -raw "$scratch/raw.txt" -benchstat "$scratch/benchstat.txt" \
	-how "COUNT=$count BENCHTIME=$benchtime bench/run.sh" -results RESULTS.md -chart results.svg
if grep -q '<!-- bench:begin -->' ../README.md 2>/dev/null; then
	"$scratch/report" -results RESULTS.md -splice ../README.md
fi
