# Helpers of kubernetes.sh: daemons are recorded as "pid start-time" in $STATE/pid/NAME, in the
# same format as by e2e/testbed/src/process.rs, and log to $STATE/log/NAME.log.

# The start time of a process in clock ticks since boot: together with the pid it identifies the
# process. Nothing for a zombie, which may stay for seconds where pid 1 is slow to reap, once its last
# thread is gone: until then the process may hold its ports.
start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" || $18 > 1 {print $20}'; }

start_daemon() { # NAME COMMAND...
  local name=$1 pid
  shift
  setsid "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid $(start_time $pid)" >"$STATE/pid/$name"
}

is_alive() { # NAME
  local pid time
  read -r pid time 2>/dev/null <"$STATE/pid/$1" || return 1
  [ -n "$time" ] && [ "$(start_time "$pid")" = "$time" ]
}

stop_daemon() { # NAME SIGNAL: KILL follows after 10 s
  local pid _
  if is_alive "$1"; then
    read -r pid _ <"$STATE/pid/$1"
    kill "-$2" "$pid" 2>/dev/null
    for _ in $(seq 100); do
      is_alive "$1" || break
      sleep 0.1
    done
    if is_alive "$1"; then kill -KILL "$pid"; sleep 0.2; fi
  fi
  rm -f "$STATE/pid/$1"
}

wait_for() { # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -ge $end ]; then
      echo "timed out waiting for $what" >&2
      return 1
    fi
    sleep 0.2
  done
}
