# Of test/vm/guest: whole lives of pods.

# life HANDLER PARENT: one pod, from its making to nothing.
life() {
  local handler=$1 parent=$2 name pod id path stats below=
  name=$handler-$([ -n "$parent" ] && echo kubelet || echo plain)
  [ -z "$parent" ] || systemctl start "$(basename "$parent")"
  pod "$name" "$parent"
  pod=$(cri runp -r "$handler" "$work/$name.json") || { check "$name: runp" false; return; }
  check "$name: the pod has its scope" systemctl -q is-active "berth-$pod.scope"
  [ "$handler" = runc ] || below=/container # crun's own level
  check "$name: the pause is in it" equal "$(cgroup_of "$(pid_of "$pod")")" "${parent:-/system.slice}/berth-$pod.scope${below:-}"
  check "$name: the pod's monitor is in the monitors' cgroup" equal "$(cgroup_of "$(monitor_of "$pod")")" "${monitors#"$cgroups"}"
  check "$name: the pod has an address" test -n "$(cri inspectp "$pod" | jq -r '.status.network.ip // empty')"

  id=$(launch "$pod" "$name" "$name-main" "$forever" '{"resources":{"memory_limit_in_bytes":67108864,"cpu_shares":512,"cpu_quota":50000,"cpu_period":100000}}') ||
    { check "$name: create and start" false; return; }
  path=${parent:-/system.slice}/berth-$id.scope
  check "$name: the container is in its scope" equal "$(cgroup_of "$(pid_of "$id")")" "$path$below"
  check "$name: its monitor is in the monitors' cgroup" equal "$(cgroup_of "$(monitor_of "$id")")" "${monitors#"$cgroups"}"
  check "$name: memory.max" equal "$(cat "$cgroups$path$below/memory.max")" 67108864
  check "$name: cpu.max" equal "$(cat "$cgroups$path$below/cpu.max")" '50000 100000'
  check "$name: no limit of tasks that nobody asked for" equal "$(cat "$cgroups$path/pids.max" "$cgroups$path$below/pids.max" | uniq)" max
  systemctl daemon-reload
  check "$name: memory.max after a daemon-reload" equal "$(cat "$cgroups$path$below/memory.max")" 67108864
  check "$name: confined by Berth's own AppArmor profile" equal "$(cat "/proc/$(pid_of "$id")/attr/current")" 'berth-default (enforce)'
  updates "$name" "$id" "$cgroups$path$below"
  check "$name: exec" equal "$(exec_sync "$id" 'echo out; echo err >&2; exit 7' | jq -r '.stdout + .stderr + (.exit_code | tostring)')" $'out\nerr\n7'
  check "$name: the container has a cgroup namespace of its own" equal "$(cri exec --sync "$id" cat /proc/self/cgroup)" 0::/berth-exec-0
  check "$name: and sees its own limit there" equal "$(cri exec --sync "$id" cat /sys/fs/cgroup/memory.max)" 100663296
  check "$name: exec ends at its time limit" grep -qi 'timed out\|deadline' <<<"$(cri exec --sync --timeout 3 "$id" sh -c '(setsid sleep 1001 &); setsid sleep 1000 & sleep 1000' 2>&1)"
  check "$name: with all it started, also what has left its session and its parents" equal "$(sleepers "$cgroups$path")" ''
  commands "$name" "$id" "$cgroups$path$below"

  stats=$(cri stats -o json --id "$id")
  check "$name: ContainerStats CPU" positive "$(jq -r '.stats[0].cpu.usageCoreNanoSeconds.value' <<<"$stats")"
  check "$name: ContainerStats working set" positive "$(jq -r '.stats[0].memory.workingSetBytes.value' <<<"$stats")"
  check "$name: ContainerStats available memory" positive "$(jq -r '.stats[0].memory.availableBytes.value' <<<"$stats")"
  check "$name: ContainerStats has pressure" equal "$(jq -r '.stats[0].memory.psi.Some | type' <<<"$stats")" object
  stats=$(cri statsp -o json --id "$pod")
  check "$name: PodSandboxStats CPU" positive "$(jq -r '.stats[0].linux.cpu.usageCoreNanoSeconds.value' <<<"$stats")"
  check "$name: PodSandboxStats working set" positive "$(jq -r '.stats[0].linux.memory.workingSetBytes.value' <<<"$stats")"
  check "$name: PodSandboxStats processes" positive "$(jq -r '.stats[0].linux.process.processCount.value' <<<"$stats")"

  oom "$name" "$pod"
  if [ -n "$parent" ]; then
    limits "$handler" "$name" "$pod"
    confined "$name" "$pod"
    oom_of_pod "$name" "$pod" "$(basename "$parent")"
  fi
  check "$name: a stop takes TERM for an answer" cri stop --timeout 60 "$id"
  check "$name: exit code of the stopped" equal "$(end_of "$id")" '0 Completed'
  eventually test ! -e "$cgroups$path"
  check "$name: its cgroup is gone" test ! -e "$cgroups$path"
  check "$name: rm" cri rm "$id"
  id=$(launch "$pod" "$name" "$name-stubborn" 'trap "" TERM; while :; do sleep 1; done')
  check "$name: stopp ends what does not listen" cri stopp "$pod"
  check "$name: with 137" equal "$(end_of "$id")" '137 Error'
  check "$name: rmp" cri rmp "$pod"
  check "$name: nothing is left" nothing_left
  check "$name: no unit has failed" equal "$(systemctl list-units --failed --plain --no-legend)" ''
  [ -z "$parent" ] || systemctl stop "$(basename "$parent")"
}

# sleepers DIRECTORY: what the sleeps of a cgroup and those below it were told, as far as it has four digits.
sleepers() {
  local pid
  for pid in $(find "$1" -name cgroup.procs -exec cat {} +); do
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -oE '^sleep [0-9]{4}'
  done | sort
}
is_sleepers() { equal "$(sleepers "$1")" "$2"; }

# commands NAME ID DIRECTORY: the cgroups of commands in a container, which are not to change what it may have.
commands() {
  local name=$1 id=$2 dir=$3 session
  check "$name: a command has a cgroup of its own, and the next one the same" equal "$(cd "$dir" && echo berth-exec-*)" berth-exec-0
  check "$name: without controllers" equal "$(cat "$dir/cgroup.subtree_control" "$dir/berth-exec-0/cgroup.controllers")" ''
  check "$name: what a command leaves in the background" equal "$(exec_sync "$id" '(setsid sleep 1002 >/dev/null 2>&1 </dev/null &)' | jq -r .exit_code)" 0
  check "$name: lives on" eventually is_sleepers "$dir" 'sleep 1002'
  crictl exec -i "$id" sh -c '(setsid sleep 1003 &); sleep 1003' </dev/null >/dev/null 2>&1 &
  session=$!
  eventually is_sleepers "$dir" $'sleep 1002\nsleep 1003\nsleep 1003'
  kill -KILL $session
  wait $session 2>/dev/null
  check "$name: a client that goes takes all with it but that" eventually is_sleepers "$dir" 'sleep 1002'
  check "$name: the end of the container will take it" test -n "$(cat "$dir/berth-exec-0/cgroup.procs")"
}

privileged() {
  local handler=$1 name=$1-privileged pod id
  pod "$name" ''
  jq '.linux.security_context.privileged = true' "$work/$name.json" >"$work/privileged.json" && mv "$work/privileged.json" "$work/$name.json"
  pod=$(cri runp -r "$handler" "$work/$name.json")
  id=$(launch "$pod" "$name" "$name" "$forever" '{"security_context":{"privileged":true}}')
  check "$name: runs" is_state "$id" CONTAINER_RUNNING
  check "$name: makes cgroups below its own, in the node's tree" equal "$(exec_sync "$id" 'read -r own </proc/self/cgroup; mkdir "/sys/fs/cgroup${own#0::}/below"' | jq -r .stderr)" ''
  check "$name: where it is" test -d "$cgroups$(cgroup_of "$(pid_of "$id")")/berth-exec-0/below"
  id=$(launch "$pod" "$name" "$name-not" "$forever")
  check "$name: which others cannot" grep -q 'Read-only' <<<"$(exec_sync "$id" 'mkdir /sys/fs/cgroup/below' | jq -r .stderr)"
  check "$name: rmp --force of a running pod" cri rmp --force "$pod"
}

# A profile of the node's, by name.
confined() {
  local name=$1 pod=$2 id
  echo 'profile berth-vm flags=(attach_disconnected,mediate_deleted) { file, capability, network, signal, mount, umount, ptrace, deny /etc/group r, }' | apparmor_parser -r
  id=$(launch "$pod" "$name" "$name-confined" "$forever" '{"security_context":{"apparmor":{"profile_type":2,"localhost_ref":"berth-vm"}}}')
  check "$name: confined by the AppArmor profile asked for" equal "$(cat "/proc/$(pid_of "$id")/attr/current")" 'berth-vm (enforce)'
  check "$name: an exec as well" grep -q 'Permission denied' <<<"$(exec_sync "$id" 'cat /etc/group' | jq -r .stderr)"
  cri rm --force "$id" >/dev/null
  id=$(launch "$pod" "$name" "$name-unconfined" "$forever" '{"security_context":{"apparmor":{"profile_type":1}}}')
  check "$name: unconfined when asked for" equal "$(cat "/proc/$(pid_of "$id")/attr/current")" unconfined
  cri rm --force "$id" >/dev/null
  container "$name-missing" "$forever" '{"security_context":{"apparmor":{"profile_type":2,"localhost_ref":"not-there"}}}'
  check "$name: a profile that is not loaded is refused" grep -q 'not-there.*is not loaded' <<<"$(cri create "$pod" "$work/$name-missing.container.json" "$work/$name.json" 2>&1)"
  # With the capability for it, no seccomp filter and /sys writable by a mount of its own, the profile alone is in the way.
  id=$(launch "$pod" "$name" "$name-capable" "$forever" '{"security_context":{"seccomp":{"profile_type":1},"capabilities":{"add_capabilities":["SYS_ADMIN"]}}}')
  check "$name: the default profile lets nobody mount" grep -q 'Permission denied\|permission denied' <<<"$(exec_sync "$id" 'mount -t tmpfs none /tmp' | jq -r .stderr)"
  check "$name: and nobody change the node's settings" grep -q 'Permission denied' <<<"$(exec_sync "$id" 'umount /proc/sys; echo 1 >/proc/sys/vm/drop_caches' | jq -r .stderr)"
  cri rm --force "$id" >/dev/null
}

# A parent in the other driver's notation.
parents() {
  pod "$1-parent" "$2"
  check "$1: the parent $2 is refused by its field" grep -q 'linux.cgroup_parent: ' <<<"$(cri runp "$work/$1-parent.json" 2>&1)"
}

part_crun() { life crun ''; life crun "$kubelet_parent"; privileged crun; parents crun /kubepods/burstable/pod1; check 'crun: nothing is left' nothing_left; }
part_runc() { life runc ''; life runc "$kubelet_parent"; privileged runc; check 'runc: nothing is left' nothing_left; }
readonly kubelet_parent=/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poduid_vm.slice
