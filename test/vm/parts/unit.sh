# Of test/vm/guest: what the unit has to be before anything else can hold.

part_unit() {
  check 'cgroup v2' equal "$(stat -fc %T $cgroups)" cgroup2fs
  check 'AppArmor is on' equal "$(cat /sys/module/apparmor/parameters/enabled)" Y
  check 'the unit is active, which takes READY' equal "$(unit ActiveState)/$(unit SubState)/$(unit Type)" active/running/notify
  check 'RuntimeConfig says SYSTEMD' equal "$(rpc RuntimeConfig '{}' linux.cgroup_driver)" 0
  check 'runtime and network are ready' equal "$(cri info | jq -c '[.status.conditions[].status]')" '[true,true]'
  check 'the monitors have a cgroup' test -d $monitors
  check 'no controller is on below the unit' equal "$(cat $cgroups/system.slice/berth.service/cgroup.subtree_control)" ''
}
