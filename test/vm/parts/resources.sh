# Of test/vm/guest: limits, their change, and what happens at them.

# The end of a scope races with the question what ended it: so several times.
oom() {
  local name=$1 pod=$2 id i
  for i in 1 2 3; do
    id=$(launch "$pod" "$name" "$name-oom$i" 'tail /dev/zero' '{"resources":{"memory_limit_in_bytes":20971520}}')
    eventually is_state "$id" CONTAINER_EXITED
    check "$name: out of memory, $i" equal "$(end_of "$id")" '137 OOMKilled'
    check "$name: which says the limit, $i" grep -Eq "the container's memory limit of 20971520 bytes was reached( \(peak 2[0-9]{7} bytes\))?$" <<<"$(message_of "$id")"
    cri rm "$id" >/dev/null
  done
  # Not the first process, but the kubelet wants to know as well.
  id=$(launch "$pod" "$name" "$name-oomchild" 'tail /dev/zero; echo "child ended: $?"; exit 3' '{"resources":{"memory_limit_in_bytes":20971520}}')
  eventually is_state "$id" CONTAINER_EXITED
  check "$name: a child out of memory" equal "$(end_of "$id")" '3 OOMKilled'
  cri rm "$id" >/dev/null
  id=$(launch "$pod" "$name" "$name-oomlong" 'tail /dev/zero; sleep 3; exit 0' '{"resources":{"memory_limit_in_bytes":20971520}}')
  eventually is_state "$id" CONTAINER_EXITED
  check "$name: one that outlived its child" equal "$(end_of "$id")" '0 Completed'
  cri rm "$id" >/dev/null
  # What a kubelet sends for every container: all of its processes go at once.
  id=$(launch "$pod" "$name" "$name-oomgroup" 'tail /dev/zero; exit 3' '{"resources":{"memory_limit_in_bytes":20971520,"unified":{"memory.oom.group":"1"}}}')
  eventually is_state "$id" CONTAINER_EXITED
  check "$name: out of memory as a group" equal "$(end_of "$id")" '137 OOMKilled'
  cri rm "$id" >/dev/null
}
# The pod's own limit, as the kubelet sets it: who is killed for it is said to be, the neighbour is not.
oom_of_pod() {
  local name=$1 pod=$2 slice=$3 neighbour id
  check "$name: UpdatePodSandboxResources" rpc UpdatePodSandboxResources "$(jq -n --arg id "$pod" '{pod_sandbox_id: $id, resources: {memory_limit_in_bytes: "73400320"}}')"
  check "$name: leaves the slice to the kubelet" equal "$(cat "$cgroups$kubelet_parent/memory.max")" max
  neighbour=$(launch "$pod" "$name" "$name-neighbour" 'trap "exit 9" TERM; while :; do sleep 1 & wait; done')
  systemctl set-property --runtime "$slice" MemoryMax=64M
  id=$(launch "$pod" "$name" "$name-hog" 'tail /dev/zero' '{"resources":{"oom_score_adj":1000}}')
  eventually is_state "$id" CONTAINER_EXITED
  check "$name: out of the pod's memory" equal "$(end_of "$id")" '137 OOMKilled'
  check "$name: which says so" grep -Eq "the pod's memory limit of 67108864 bytes was reached \(peak 6[0-9]{7} bytes\)$" <<<"$(message_of "$id")"
  systemctl set-property --runtime "$slice" MemoryMax=infinity
  cri stop --timeout 60 "$neighbour" >/dev/null
  check "$name: the neighbour was not" equal "$(end_of "$neighbour")" '9 Error'
  cri rm "$id" "$neighbour" >/dev/null
}

# updates NAME ID DIRECTORY: limits of a running container, from 64 MiB, 512 shares and half a processor.
updates() {
  local name=$1 id=$2 dir=$3 before
  update() { rpc UpdateContainerResources "$(jq -n --arg id "$id" --argjson linux "$1" '{container_id: $id, linux: $linux}')"; }
  check "$name: update" update '{"memory_limit_in_bytes":"100663296","cpu_quota":"30000","cpuset_cpus":"0","oom_score_adj":"300","unified":{"memory.high":"83886080"}}'
  check "$name: updated memory.max" equal "$(cat "$dir/memory.max")" 100663296
  check "$name: updated cpu.max" equal "$(cat "$dir/cpu.max")" '30000 100000'
  check "$name: updated cpuset.cpus" equal "$(cat "$dir/cpuset.cpus")" 0
  check "$name: updated memory.high" equal "$(cat "$dir/memory.high")" 83886080
  check "$name: updated oom_score_adj" equal "$(cat "/proc/$(pid_of "$id")/oom_score_adj")" 300
  systemctl daemon-reload
  check "$name: updated limits after a daemon-reload" equal "$(cat "$dir/memory.max" "$dir/cpu.max" "$dir/cpuset.cpus" "$dir/memory.high" | tr '\n' ' ')" '100663296 30000 100000 0 83886080 '
  check "$name: in the status" equal "$(cri inspect "$id" | jq -c '[.status.resources.linux | .memoryLimitInBytes, .cpuQuota, .cpuShares, .cpusetCpus]')" '["100663296","30000","512","0"]'
  before=$(cat "$dir"/{memory.max,cpu.max,cpu.weight,cpuset.cpus,memory.high})
  check "$name: an update that the kernel refuses" grep -q 'nothing was changed' <<<"$(update '{"memory_limit_in_bytes":"90000000","cpu_shares":"900","cpuset_cpus":"900"}' 2>&1)"
  check "$name: has changed nothing" equal "$(cat "$dir"/{memory.max,cpu.max,cpu.weight,cpuset.cpus,memory.high})" "$before"
  systemctl daemon-reload
  check "$name: nor after a daemon-reload" equal "$(cat "$dir"/{memory.max,cpu.max,cpu.weight,cpuset.cpus,memory.high})" "$before"
  exec_sync "$id" 'head -c 40000000 /dev/zero >/dev/shm/held' >/dev/null
  check "$name: a limit below what is in use is refused" grep -q 'is below the [0-9]* bytes that container' <<<"$(update '{"memory_limit_in_bytes":"31457280"}' 2>&1)"
  check "$name: a limit below the handler's minimum as well" grep -q 'container_min_memory' <<<"$(update '{"memory_limit_in_bytes":"4096"}' 2>&1)"
  check "$name: and neither is set" equal "$(cat "$dir/memory.max")" 100663296
  exec_sync "$id" ': >/dev/shm/held' >/dev/null
  check "$name: no limit of processor time any more" update '{"cpu_quota":"-1"}'
  check "$name: which cpu.max says" equal "$(cat "$dir/cpu.max")" 'max 100000'
}

# limits HANDLER NAME POD: all that a request can limit, and the smallest memory limit that is taken.
limits() {
  local handler=$1 name=$2 pod=$3 id dir least
  id=$(launch "$pod" "$name" "$name-limits" "$forever" '{"resources":{"memory_limit_in_bytes":67108864,"memory_swap_limit_in_bytes":100663296,"cpu_shares":512,
    "cpuset_cpus":"1","cpuset_mems":"0","oom_score_adj":500,"hugepage_limits":[{"page_size":"2MB","limit":4194304}],
    "unified":{"memory.high":"60000000","memory.oom.group":"1","pids.max":"50","io.weight":"200"}}}')
  dir=$cgroups$(cgroup_of "$(pid_of "$id")")
  check "$name: memory and swap" equal "$(cat "$dir/memory.max" "$dir/memory.swap.max" | tr '\n' ' ')" '67108864 33554432 '
  check "$name: cpu.weight of 512 shares" equal "$(cat "$dir/cpu.weight")" 20
  check "$name: cpuset" equal "$(cat "$dir/cpuset.cpus" "$dir/cpuset.mems" | tr '\n' ' ')" '1 0 '
  check "$name: oom_score_adj" equal "$(cat "/proc/$(pid_of "$id")/oom_score_adj")" 500
  check "$name: huge pages" equal "$(cat "$dir/hugetlb.2MB.max")" 4194304
  check "$name: unified keys" equal "$(cat "$dir/memory.high" "$dir/memory.oom.group" "$dir/pids.max" | tr '\n' ' ')" '59998208 1 50 '
  check "$name: io.weight" grep -qx 'default 200' "$dir/io.weight"
  check "$name: io.weight is changed" rpc UpdateContainerResources "$(jq -n --arg id "$id" '{container_id: $id, linux: {unified: {"io.weight": "300"}}}')"
  check "$name: and says so" grep -qx 'default 300' "$dir/io.weight"
  cri rm --force "$id" >/dev/null
  container "$name-refused" "$forever" '{"resources":{"unified":{"cgroup.freeze":"1"}}}'
  check "$name: a unified key that is no limit is refused" grep -q 'unified.*cgroup.freeze' <<<"$(cri create "$pod" "$work/$name-refused.container.json" "$work/$name.json" 2>&1)"
  least=$(least_memory "$handler")
  id=$(launch "$pod" "$name" "$name-least" 'sleep 1000' "{\"resources\":{\"memory_limit_in_bytes\":$least}}")
  check "$name: runs with the least memory, $least" is_state "$id" CONTAINER_RUNNING
  check "$name: and a command in it" cri exec --sync "$id" true
  cri rm --force "$id" >/dev/null
  container "$name-refused" "$forever" "{\"resources\":{\"memory_limit_in_bytes\":$((least - 1))}}"
  check "$name: with less it is refused" grep -q "memory_limit_in_bytes: $((least - 1)) is below $least" <<<"$(cri create "$pod" "$work/$name-refused.container.json" "$work/$name.json" 2>&1)"
}
# least_memory HANDLER: its container_min_memory in bytes.
least_memory() {
  /usr/lib/berth/dist/berth config | awk -v section="[runtime.runtimes.$1]" '$1 ~ /^\[/ { inside = $1 == section } inside && $1 == "container_min_memory" { print $3 }' |
    sed 's/KiB/*1024/; s/MiB/*1048576/' | { read -r text; echo $((text)); }
}
