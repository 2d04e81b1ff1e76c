#!/usr/bin/env bash
# ./demo.sh [PICTURE [VIDEO]]: makes a video from a picture, with nothing installed but Python 3.11 and curl.
#
# Starts the whole service on this machine, uploads the picture, follows the task, saves the video (output_video.mp4)
# and stops all that it started. With API_URL set to a service that answers, it uses that one instead, with the key in
# API_KEY if there is one.
set -euo pipefail

fail() { echo "demo: $*" >&2; exit 1; }

home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
picture=${1:-$home/samples/coffee.jpg}
video=${2:-output_video.mp4}
port=${API_PORT:-8000}
api=${API_URL:-http://127.0.0.1:$port}
api=${api%/}
oldest_driver=580 # of those that run the CUDA 13 of requirements/svd.txt's torch
work=$(mktemp -d "${TMPDIR:-/tmp}/kinora-demo.XXXXXX")
services=
# This machine's own services are behind no proxy.
no_proxy=${no_proxy:-${NO_PROXY:-}}
[ "$no_proxy" = "*" ] || no_proxy=127.0.0.1,localhost,::1,$no_proxy
export no_proxy

stop_all() {
  trap - EXIT INT TERM HUP
  if [ -n "$services" ]; then
    kill -TERM "$services" 2>/dev/null || true
    wait "$services" 2>/dev/null || true
  fi
  rm -rf "$work" "${OWN_REDIS_FOLDER:-$work}"
}
trap stop_all EXIT
trap 'exit 130' INT TERM HUP

field() { # field NAME: one value of the JSON object on standard input
  "$json_python" -c 'import json, sys
value = json.load(sys.stdin)
for name in sys.argv[1].split("."):
    value = value.get(name) if isinstance(value, dict) else None
print("" if value is None else value)' "$1"
}

absolute() { echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"; }
now() { "$json_python" -c 'import time; print(time.time())'; }
call() { curl ${API_KEY:+-H "Authorization: Bearer $API_KEY"} "$@"; }
answers() { curl -fsS -m 2 -o /dev/null "$api/health/live" 2>/dev/null; }
in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_driver() { # before gigabytes are fetched that this driver cannot run
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1) || true
  [[ ${driver%%.*} =~ ^[0-9]+$ ]] || return 0
  [ "${driver%%.*}" -ge "$oldest_driver" ] ||
    fail "update the NVIDIA driver to $oldest_driver or newer, for this one is $driver (ENGINE=preview ./demo.sh does without a GPU)"
}

start_services() {
  in_use "$port" && fail "port $port is in use by another program; choose one with API_PORT=8001 ./demo.sh"
  local requirements=demo
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    requirements=demo-gpu
    [ "${ENGINE:-}" = preview ] || check_driver
  fi
  "$home/scripts/venv" "$requirements" || exit 1
  export PATH=$home/.venv/bin:$PATH PYTHONUNBUFFERED=1
  (umask 077 && mkdir -p "${DATA_DIR:-$home/data}") || fail "set DATA_DIR to a folder that can be written to"
  DATA_DIR=$(absolute "${DATA_DIR:-$home/data}")
  [ ! -e "${MODEL_ID:-}" ] || MODEL_ID=$(absolute "$MODEL_ID")
  [ ! -e "${RIFE_WEIGHTS:-}" ] || RIFE_WEIGHTS=$(absolute "$RIFE_WEIGHTS")
  # Or the preview, which is ready at once, would be all that `auto` finds.
  [ "$requirements" = demo ] || ENGINE=${ENGINE:-svd-xt}
  # What the demo decides, above what .env says. An empty setting is one that is not made.
  export API_HOST=127.0.0.1 API_PORT=$port AUTH=off DATA_DIR MODEL_ID RIFE_WEIGHTS ENGINE LOG_FORMAT=console
  export TORCH_COMPILE_DISABLE=1 # to compile a model takes minutes and saves one clip some seconds
  # shellcheck source=scripts/own-redis
  . "$home/scripts/own-redis"
  local environment=$home/.env
  [ -f "$environment" ] || { environment=$work/env && : >"$environment"; }
  echo "Starting Kinora …"
  # A terminal sends Ctrl-C, and its own end, to all of its processes: only stop_all ends this one, in order. honcho would
  # read .env otherwise than the service does.
  (
    trap '' INT HUP
    cd "$home"
    exec python -m dotenv -f "$environment" run --no-override -- honcho -e /dev/null start >"$work/services.log" 2>&1
  ) &
  services=$!
  wait_until_ready
}

unavailable() { # unavailable: why the engine cannot run, out of the /health on standard input; nothing while it may
  "$json_python" -c 'import json, sys
health = json.load(sys.stdin)
workers = [worker for queue in health["queues"].values() for worker in queue["workers"]]
reports = [worker["engines"].get(health["engine"], {}) for worker in workers]
print(next((report["reason"] for report in reports if report.get("reason")), ""))'
}

missing() { # missing: what of the service is not there yet, out of the /health on standard input
  "$json_python" -c 'import json, sys
print("; ".join(json.load(sys.stdin)["problems"]) or "the service")'
}

wait_until_ready() { # weights may take long to fetch: this waits for as long as the service lives
  local state reason awaited said="" begun=$SECONDS
  while :; do
    if ! kill -0 "$services" 2>/dev/null; then
      grep -o 'kinora: .*' "$work/services.log" | sort -u >&2 || tail -20 "$work/services.log" >&2
      fail "the service did not start"
    fi
    if state=$(curl -sS -m 2 "$api/health" 2>&1); then
      [ "$(field status <<<"$state")" != ok ] || return 0
      reason=$(unavailable <<<"$state")
      [ -z "$reason" ] || fail "$reason (ENGINE=preview ./demo.sh does without it)"
      awaited=$(missing <<<"$state")
    else
      awaited="$api/health: $state"
    fi
    if [ $((SECONDS - begun)) -ge 5 ] && [ "$awaited" != "$said" ]; then # most often it is there by then
      echo "Waiting: $awaited"
      said=$awaited
    fi
    sleep 0.1
  done
}

draw() { # draw PROGRESS TEXT: one line, redrawn in place on a terminal
  local width=40 filled bar
  filled=$(($1 * width / 100))
  bar=$(printf '%*s' "$filled" '' | tr ' ' '#')$(printf '%*s' $((width - filled)) '' | tr ' ' '.')
  if [ -t 1 ]; then printf '\r[%s] %3d %%  %-24s' "$bar" "$1" "$2"; else printf '[%s] %3d %%  %s\n' "$bar" "$1" "$2"; fi
}

follow() { # follow TASK: returns when the task has ended; its last state is in $state
  local line last=
  while :; do
    state=$(call -fsS -m 10 "$api/status/$1") || fail "the service stopped answering"
    line=$(field progress <<<"$state")\ $(field status <<<"$state")\ $(field step.phase <<<"$state")
    if [ "$line" != "$last" ]; then
      # shellcheck disable=SC2086 # the three words are meant to be split
      set -- "$1" $line
      draw "$2" "${4:-$3}"
      last=$line
    fi
    case $3 in finished | failed | canceled) break ;; esac
    sleep 0.1
  done
  [ ! -t 1 ] || echo
}

[ -f "$picture" ] || fail "there is no file $picture"
json_python=$(command -v python3 || command -v python) || fail "Python 3.11 or newer is needed"
command -v curl >/dev/null || fail "curl is needed"
if [ -n "${API_URL:-}" ] && answers; then echo "Using the service at $api"; else
  [ -z "${API_URL:-}" ] || echo "Nothing answers at $API_URL, so this starts a service here"
  api=http://127.0.0.1:$port
  start_services
fi

echo "Uploading $picture"
begun=$(now)
code=$(call -sS -o "$work/answer.json" -w '%{http_code}' -F "file=@\"$picture\"" "$api/generate") || fail "the upload failed"
[ "$code" = 202 ] || fail "$(field error.message <"$work/answer.json")"
task=$(field task_id <"$work/answer.json")
follow "$task"
[ "$(field status <<<"$state")" = finished ] || fail "the task ended as $(field status <<<"$state"): $(field error.message <<<"$state")"
call -fsS -o "$video" "$api/results/$task" || fail "the download failed"
seconds=$("$json_python" -c 'import sys; print(f"{float(sys.argv[2]) - float(sys.argv[1]):.1f}")' "$begun" "$(now)")

cat <<SUMMARY

  file     $video
  size     $(wc -c <"$video" | tr -d ' ') bytes, $(field params.width <<<"$state") × $(field params.height <<<"$state")
  frames   $(field params.num_frames <<<"$state") at $(field params.fps <<<"$state") a second
  seconds  $seconds
  engine   $(field engine <<<"$state")
  task     $task
SUMMARY
