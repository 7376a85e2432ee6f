# Of test/vm/guest: the unit is restarted and killed while pods work and others are made.

# Two containers that print numbers all the time, and a kubelet that makes, looks and removes meanwhile: no number is lost or
# comes twice, and nobody but the callers in flight notices.
part_load() {
  local handler n id log churners=()
  pods=() ids=()
  for handler in crun runc; do
    pod "load-$handler" ''
    pods+=("$(cri runp -r $handler "$work/load-$handler.json")")
    ids+=("$(launch "${pods[-1]}" "load-$handler" "load-$handler" 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.05; done')")
  done
  before=$(processes)
  for n in 1 2; do
    echo 0 >"$work/lives-$n"
    churn $n &
    churners+=($!)
  done
  for n in 1 2; do
    check "load: both kubelets are served, $n" lived $n
    sleep $n # to be in the middle of other calls
    check "load: restart $n" systemctl restart berth
  done
  check 'load: both kubelets are served, 3' lived 3
  id=$(main_pid)
  kill -KILL "$id"
  eventually answers_as_another "$id"
  check 'load: another daemon after a crash' answers_as_another "$id"
  check 'load: both kubelets are served, 4' lived 4
  touch "$work/enough"
  wait "${churners[@]}"
  for n in 1 2; do check "load: kubelet $n has no complaint" equal "$(cat "$work/complaints-$n")" ''; done
  check 'load: pods, containers and monitors live on where they were' equal "$(processes)" "$before"
  for id in "${ids[@]}"; do check 'load: exec' equal "$(cri exec --sync "$id" echo here | head -n 1)" here; done
  for handler in crun runc; do
    log=/var/log/pods/load-$handler/load-$handler.log
    check "load: $handler: some hundred lines" test "$(wc -l <"$log")" -gt 200
    # runc itself warns on the container's stderr of devices that the node lacks.
    check "load: $handler: no line is lost, none comes twice" equal "$(awk '$2 == "stdout" && $4 != ++n { print n ": " $0; exit }' "$log")" ''
  done
  check 'load: only these pods are there' equal "$(cri pods -q | sort)" "$(printf '%s\n' "${pods[@]}" | sort)"
  rm -f "$work/enough"
  take_down load
}

# lived COUNT: waits, five minutes at most, until so many pods of both kubelets have come and gone.
lived() {
  local i
  for ((i = 0; i < 600; i++)); do
    [ "$(cat "$work/lives-1")" -ge "$1" ] && [ "$(cat "$work/lives-2")" -ge "$1" ] && return
    sleep 0.5
  done
  return 1
}

# churn N: lives of pods, one after the other, each call repeated until it succeeds, as a kubelet does.
churn() {
  local n=$1 pod id lives=0
  : >"$work/complaints-$n"
  container "churn-$n" "$forever"
  while [ ! -e "$work/enough" ]; do
    pod "churn-$n" ''
    jq --arg uid "uid-$n-$lives" '.metadata.uid = $uid' "$work/churn-$n.json" >"$work/churn-$n.new" && mv "$work/churn-$n.new" "$work/churn-$n.json"
    pod=$(again "$n" cri runp "$work/churn-$n.json") || return
    id=$(again "$n" cri create "$pod" "$work/churn-$n.container.json" "$work/churn-$n.json") || return
    again "$n" cri start "$id" >/dev/null || return
    again "$n" cri exec --sync "$id" true >/dev/null || return
    again "$n" cri stopp "$pod" >/dev/null || return
    again "$n" cri rmp "$pod" >/dev/null || return
    lives=$((lives + 1))
    echo $lives >"$work/lives-$n"
  done
}
# again N COMMAND…: until it succeeds, for ten minutes.
again() {
  local n=$1 output begun=$SECONDS
  shift
  while [ $((SECONDS - begun)) -lt 600 ]; do
    output=$("$@" 2>"$work/error-$n") && { echo "$output"; return; }
    # What the first try has done is no failure of the second.
    [ "$2" = start ] && grep -q 'is running' "$work/error-$n" && return
    sleep 1
  done
  echo "$*: $(cat "$work/error-$n")" >>"$work/complaints-$n"
  return 1
}
