#!/usr/bin/env bash
# Runs statsd, carbon and graphite-web on free ports of the loopback, without docker and without root:
#
#	./stack.sh go run . -duration 1m    # with STATSD_ADDR and GRAPHITE_URL set, until the command ends
#	./stack.sh                          # until standard input ends, or Ctrl-C
#
# Everything lives in a temporary folder, which goes with the servers. Exits with 77, and says what is missing, where
# the stack cannot run; with STATSD_DIR set to an installed statsd, npm is not needed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

unavailable() {
	echo "stack.sh: not available here: $*" >&2
	exit 77
}
python=/usr/bin/python3 # Debian's, which has Debian's graphite
[ -x "$python" ] && "$python" -c 'import django, graphite, carbon, whisper' 2>/dev/null ||
	unavailable "Debian's graphite-web and graphite-carbon are not installed"
command -v node >/dev/null || unavailable "node is not installed"
command -v carbon-cache >/dev/null || unavailable "carbon-cache is not in the path"

dir=$(mktemp -d "${TMPDIR:-/tmp}/pooly-stack.XXXXXX")
pids=()
stop() {
	trap - EXIT INT TERM
	local pid
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

failed() {
	echo "stack.sh: $1 did not start" >&2
	tail -n 20 "$dir/$1.log" >&2 || true
	exit 1
}

if [ -z "${STATSD_DIR:-}" ]; then
	command -v npm >/dev/null || unavailable "npm is not installed"
	npm install --prefix "$dir/npm" --cache "$dir/npm-cache" --no-audit --no-fund --omit=optional statsd@0.9.0 \
		>"$dir/npm.log" 2>&1 || { tail -n 5 "$dir/npm.log" >&2; unavailable "npm cannot install statsd"; }
	STATSD_DIR=$dir/npm/node_modules/statsd
fi

# Held open together, so that they differ. statsd's is a UDP port.
read -r statsd_port mgmt_port line_port pickle_port query_port web_port < <("$python" - <<'PY'
import socket
kinds = [socket.SOCK_DGRAM] + [socket.SOCK_STREAM] * 5
sockets = [socket.socket(socket.AF_INET, kind) for kind in kinds]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
)

mkdir -p "$dir/conf" "$dir/whisper" "$dir/log"
cp "$here/storage-schemas.conf" "$dir/conf/"
cat >"$dir/conf/carbon.conf" <<CONF
[cache]
STORAGE_DIR = $dir
LOCAL_DATA_DIR = $dir/whisper
CONF_DIR = $dir/conf
LOG_DIR = $dir/log
PID_DIR = $dir
USER =
MAX_CACHE_SIZE = inf
MAX_UPDATES_PER_SECOND = inf
MAX_CREATES_PER_MINUTE = inf
MIN_TIMESTAMP_RESOLUTION = 1
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = $line_port
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = $pickle_port
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = $query_port
ENABLE_UDP_LISTENER = False
GRAPHITE_URL = http://127.0.0.1:$web_port
TAG_UPDATE_INTERVAL = 1
CONF
cat >"$dir/stack_settings.py" <<CONF
import secrets
from graphite.settings import *
STORAGE_DIR = '$dir'
LOG_DIR = '$dir/log'
WHISPER_DIR = '$dir/whisper'
STANDARD_DIRS = [WHISPER_DIR]
INDEX_FILE = '$dir/index'
CARBONLINK_HOSTS = ['127.0.0.1:$query_port']
DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': '$dir/graphite.db'}}
SECRET_KEY = secrets.token_hex(32)
ALLOWED_HOSTS = ['127.0.0.1', 'localhost']
DEFAULT_CACHE_DURATION = 0
FIND_CACHE_DURATION = 0
TAGDB_CACHE_DURATION = 1
LOG_ROTATION = False
CONF
# graphite.settings makes log folders of its own settings when imported, so these must be ours too.
cat >"$dir/local_settings.py" <<CONF
STORAGE_DIR = '$dir'
LOG_DIR = '$dir/log'
WHISPER_DIR = '$dir/whisper'
SECRET_KEY = 'replaced by stack_settings'
CONF
django() {
	PYTHONPATH=$dir PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore \
		DJANGO_SETTINGS_MODULE=stack_settings exec "$python" -m django "$@"
}

GRAPHITE_HOST=127.0.0.1 GRAPHITE_PORT=$line_port STATSD_HOST=127.0.0.1 STATSD_PORT=$statsd_port \
	STATSD_MGMT_PORT=$mgmt_port node "$STATSD_DIR/stats.js" "$here/statsd.js" >"$dir/statsd.log" 2>&1 </dev/null &
pids+=($!)
(django migrate --run-syncdb) >"$dir/graphite-web.log" 2>&1 </dev/null || failed graphite-web
PYTHONDONTWRITEBYTECODE=1 "$python" "$(command -v carbon-cache)" --config="$dir/conf/carbon.conf" \
	--pidfile="$dir/carbon.pid" --logdir="$dir/log" --debug start >"$dir/carbon.log" 2>&1 </dev/null &
pids+=($!)
django runserver --noreload "127.0.0.1:$web_port" >>"$dir/graphite-web.log" 2>&1 </dev/null &
pids+=($!)

# True once something accepts connections on the port.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for server in "statsd $mgmt_port" "carbon $line_port" "graphite-web $web_port"; do
	read -r name port <<<"$server"
	for try in {1..300}; do
		if listens "$port"; then break; fi
		[ "$try" -lt 300 ] || failed "$name"
		sleep 0.1
	done
done

export STATSD_ADDR=127.0.0.1:$statsd_port GRAPHITE_URL=http://127.0.0.1:$web_port
echo "STATSD_ADDR=$STATSD_ADDR GRAPHITE_URL=$GRAPHITE_URL"
[ $# -gt 0 ] || set -- cat
"$@" <&0 & # a signal ends a wait, but would wait itself for a command in the foreground
pids+=($!)
wait $!
