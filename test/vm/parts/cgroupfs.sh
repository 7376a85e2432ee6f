# Of test/vm/guest: the other cgroup driver, on a machine that systemd runs.

# As where a kubelet has cgroupDriver: cgroupfs. Its pods' cgroups are directories that it makes itself.
part_cgroupfs() {
  mkdir -p /etc/berth/berth.conf.d
  printf '[runtime]\ncgroup_manager = cgroupfs\n' >/etc/berth/berth.conf.d/driver.conf
  check 'cgroupfs: restart' systemctl restart berth
  check 'cgroupfs: RuntimeConfig says CGROUPFS' equal "$(rpc RuntimeConfig '{}' linux.cgroup_driver)" 1
  plain_life crun
  plain_life runc
  parents cgroupfs kubepods-pod1.slice
  rm /etc/berth/berth.conf.d/driver.conf
  check 'cgroupfs: back to systemd' systemctl restart berth
  check 'cgroupfs: nothing is left' nothing_left
}

# plain_life HANDLER: a pod in a directory of the kubelet's.
plain_life() {
  local handler=$1 name=plain-$1 parent=/kubepods/burstable/poduid-$1 dir pod id oom
  for dir in /kubepods /kubepods/burstable $parent; do
    mkdir -p $cgroups$dir
    echo '+cpu +cpuset +memory +pids +io +hugetlb' >"$cgroups$(dirname $dir)/cgroup.subtree_control"
  done
  pod "$name" $parent
  pod=$(cri runp -r "$handler" "$work/$name.json") || { check "$name: runp" false; return; }
  id=$(launch "$pod" "$name" "$name" "$forever" '{"resources":{"memory_limit_in_bytes":67108864,"cpu_shares":512,"cpu_quota":50000,"cpu_period":100000}}')
  dir=$(cgroup_of "$(pid_of "$id")")
  check "$name: the container is in the kubelet's directory" grep -Eqx "$parent/$id(/container)?" <<<"$dir"
  check "$name: and is no unit" equal "$(systemctl list-units --all --plain --no-legend 'berth-*.scope')" ''
  check "$name: limits" equal "$(cat $cgroups$dir/{memory.max,cpu.max,cpu.weight} | tr '\n' ' ')" '67108864 50000 100000 20 '
  updates "$name" "$id" "$cgroups$dir"
  check "$name: exec" equal "$(cri exec --sync "$id" echo here | head -n 1)" here
  check "$name: ContainerStats working set" positive "$(cri stats -o json --id "$id" | jq -r '.stats[0].memory.workingSetBytes.value')"
  check "$name: PodSandboxStats working set" positive "$(cri statsp -o json --id "$pod" | jq -r '.stats[0].linux.memory.workingSetBytes.value')"
  limits "$handler" "$name" "$pod"
  oom=$(launch "$pod" "$name" "$name-oom" 'tail /dev/zero' '{"resources":{"memory_limit_in_bytes":20971520}}')
  eventually is_state "$oom" CONTAINER_EXITED
  check "$name: out of memory" equal "$(end_of "$oom")" '137 OOMKilled'
  # Without systemd nobody takes the cgroup away before it has been read.
  check "$name: which says the limit and the peak" grep -Eq "the container's memory limit of 20971520 bytes was reached \(peak 2[0-9]{7} bytes\)$" <<<"$(message_of "$oom")"
  check "$name: stop" cri stop --timeout 60 "$id"
  check "$name: exit code of the stopped" equal "$(end_of "$id")" '0 Completed'
  check "$name: stopp" cri stopp "$pod"
  check "$name: rmp" cri rmp "$pod"
  eventually rmdir $cgroups$parent
  check "$name: the kubelet's directory is empty" test ! -e $cgroups$parent
  rmdir $cgroups/kubepods/burstable $cgroups/kubepods
}
