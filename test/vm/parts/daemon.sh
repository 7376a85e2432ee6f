# Of test/vm/guest: what becomes of pods when something becomes of the daemon.

# Two pods, one of each runtime, that are to live through what becomes of the daemon: $pods, $ids, $before.
bring_up() {
  local handler id
  pods=() ids=()
  for handler in crun runc; do
    pod "live-$handler" ''
    pods+=("$(cri runp -r $handler "$work/live-$handler.json")")
    ids+=("$(launch "${pods[-1]}" "live-$handler" "live-$handler" "$forever")")
  done
  before=$(processes)
}
processes() {
  local id pid
  for id in "${pods[@]}" "${ids[@]}"; do
    for pid in $(pid_of "$id") $(monitor_of "$id"); do printf '%s %s %s\n' "$pid" "$(start_time "$pid")" "$(cgroup_of "$pid")"; done
  done
}
# still_up WHAT: the same processes in the same cgroups, and a daemon that knows them.
still_up() {
  local id
  check "$1: pods, containers and monitors live on where they were" equal "$(processes)" "$before"
  for id in "${ids[@]}"; do
    check "$1: known as running" is_state "$id" CONTAINER_RUNNING
    check "$1: exec" equal "$(cri exec --sync "$id" echo here | head -n 1)" here
  done
  eventually alone # after an unclean end it checks its store, with a child
  check "$1: one process is in the unit's own cgroup" alone
}
alone() { equal "$(cat $cgroups/system.slice/berth.service/cgroup.procs)" "$(main_pid)"; }
take_down() {
  check "$1: stopp" cri stopp "${pods[@]}"
  check "$1: rmp" cri rmp "${pods[@]}"
  check "$1: nothing is left" nothing_left
}

part_restart() {
  local old
  bring_up
  old=$(main_pid)
  check 'restart: systemctl restart' systemctl restart berth
  check 'restart: another daemon' test "$(main_pid)" != "$old"
  still_up restart
  check 'restart: the stop was clean' equal "$(journalctl -o cat "_PID=$old" | grep -c 'Stopped daemon')" 1
  check 'restart: systemctl stop' systemctl stop berth
  check 'restart: nothing died with it' equal "$(processes)" "$before"
  kill -KILL "$(pid_of "${ids[0]}")"
  sleep 2
  check 'restart: systemctl start' systemctl start berth
  check 'restart: an end meanwhile is known' equal "$(end_of "${ids[0]}")" '137 Error'
  check 'restart: the other one runs' is_state "${ids[1]}" CONTAINER_RUNNING
  take_down restart
}

part_crash() {
  local old
  bring_up
  old=$(main_pid)
  kill -KILL "$old"
  eventually answers_as_another "$old"
  check 'crash: systemd has started another daemon' answers_as_another "$old"
  still_up crash
  take_down crash
}
answers_as_another() { [ "$(main_pid)" != "$1" ] && cri version >/dev/null 2>&1; }

part_watchdog() {
  local old
  mkdir -p /run/systemd/system/berth.service.d
  printf '[Service]\nWatchdogSec=20s\nTimeoutAbortSec=5s\nLimitCORE=0\n' >/run/systemd/system/berth.service.d/watchdog.conf
  systemctl daemon-reload
  systemctl restart berth
  bring_up
  old=$(main_pid)
  sleep 45
  check 'watchdog: a daemon that answers is left alone' equal "$(main_pid)" "$old"
  kill -STOP "$old"
  eventually answers_as_another "$old"
  check 'watchdog: one that does not is replaced' answers_as_another "$old"
  check 'watchdog: for that reason' grep -q 'watchdog' <<<"$(journalctl -u berth -o cat)"
  still_up watchdog
  rm -r /run/systemd/system/berth.service.d
  systemctl daemon-reload
  systemctl restart berth
  take_down watchdog
}
