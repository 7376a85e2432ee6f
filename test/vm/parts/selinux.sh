# Of test/vm/guest: SELinux, in a guest that was started with it. Its policy is Debian's reference policy with the container
# module, which Debian has in the source and does not ship. It is permissive, since it has no rules for a runtime of our kind;
# containers alone are held to it for a while, which shows that the labels do what they are for.

readonly mount_type=system_u:object_r:container_file_t

label_of() { tr -d '\0' <"/proc/$1/attr/current"; }
# level_of LABEL: s0:c1,c2
level_of() { cut -d : -f 4- <<<"$1"; }
# context_of PID MOUNT_POINT: the label that the file system at this place was mounted with.
context_of() { awk -v at="$2" '$5 == at { print }' "/proc/$1/mountinfo" | sed -n 's/.*[ ,]context="\([^"]*\)".*/\1/p'; }
# label_inside PID PATH: of a file, as it is seen in the container.
label_inside() { nsenter --target "$1" --mount --root stat -c %C "$2" 2>/dev/null || stat -c %C "/proc/$1/root$2"; }
is_pair() { grep -Eq '^s0:c[0-9]+,c[0-9]+$' <<<"$1" || { printf 'got "%s", wanted a pair of categories\n' "$1"; return 1; }; }
differ() { [ "$1" != "$2" ] || { printf 'both are "%s"\n' "$1"; return 1; }; }
# refused PATTERN COMMAND…: fails, and says so.
refused() {
  local pattern=$1 output
  shift
  if output=$("$@" 2>&1); then echo "$output"; return 1; fi
  grep -q -e "$pattern" <<<"$output" || { echo "$output"; return 1; }
}

# change NAME FILTER: of a pod's or container's JSON.
change() { jq "$2" "$work/$1.json" >"$work/changed.json" && mv "$work/changed.json" "$work/$1.json"; }
# labelled_pod NAME HANDLER [FILTER]: prints the id.
labelled_pod() {
  pod "$1" ''
  change "$1" "${3:-.}"
  cri runp -r "$2" "$work/$1.json"
}
# labelled POD_ID POD_NAME NAME [FILTER]: prints the id of a started container.
labelled() {
  local id
  container "$3" "$forever"
  change "$3.container" "${4:-.}"
  id=$(cri create "$1" "$work/$3.container.json" "$work/$2.json") && cri start "$id" >/dev/null && echo "$id"
}

part_selinux() {
  proves LinuxSandboxSecurityContext.selinux_options LinuxContainerSecurityContext.selinux_options Mount.selinux_relabel \
    SELinuxOption.user SELinuxOption.role SELinuxOption.type SELinuxOption.level
  check 'selinux: the kernel has it' test -e /sys/fs/selinux/enforce
  check 'selinux: berth uses it' refused '' grep -q 'Could not use SELinux' <<<"$(journalctl -u berth -o cat)"
  check 'selinux: layers can be read by all containers' equal "$(stat -c %C /var/lib/berth/layers/*/diff/bin/busybox | sort -u)" \
    system_u:object_r:container_ro_file_t:s0
  labels_of_pods crun
  labels_of_pods runc
  labels_by_request
  labels_off
  critest_specs SELinux
}

# Two pods, each with a level of its own, and all that carries it.
labels_of_pods() {
  local handler=$1 one two pods=() first second other pid level volume=/srv/$1-volume
  pods+=("$(labelled_pod "$handler-one" "$handler")" "$(labelled_pod "$handler-two" "$handler")")
  mkdir -p "$volume/below" /srv/kept
  echo mine >"$volume/below/file"
  first=$(labelled "${pods[0]}" "$handler-one" "$handler-first" \
    ".mounts = [{host_path: \"$volume\", container_path: \"/volume\", selinux_relabel: true}, {host_path: \"/srv/kept\", container_path: \"/kept\"}]")
  second=$(labelled "${pods[0]}" "$handler-one" "$handler-second")
  other=$(labelled "${pods[1]}" "$handler-two" "$handler-other" ".mounts = [{host_path: \"$volume\", container_path: \"/volume\"}]")
  pid=$(pid_of "$first")
  one=$(label_of "$pid")
  two=$(label_of "$(pid_of "$other")")
  level=$(level_of "$one")
  check "selinux: $handler: a process has the policy's label" equal "${one%:"$level"}" system_u:system_r:container_t
  check "selinux: $handler: and two categories" is_pair "$level"
  check "selinux: $handler: other ones in another pod" differ "$level" "$(level_of "$two")"
  check "selinux: $handler: the same in the same pod" equal "$(label_of "$(pid_of "$second")")" "$one"
  check "selinux: $handler: and for its pause" equal "$(label_of "$(pid_of "${pods[0]}")")" "$one"
  check "selinux: $handler: and for a command" equal "$(exec_sync "$first" 'cat /proc/self/attr/current' | jq -r .stdout | tr -d '\0')" "$one"
  check "selinux: $handler: the root file system" equal "$(context_of "$pid" /)" "$mount_type:$level"
  check "selinux: $handler: /dev/shm" equal "$(context_of "$pid" /dev/shm)" "$mount_type:$level"
  check "selinux: $handler: /dev" equal "$(label_inside "$pid" /dev)" "$mount_type:$level"
  check "selinux: $handler: /dev/mqueue" equal "$(label_inside "$pid" /dev/mqueue)" "$mount_type:$level"
  check "selinux: $handler: resolv.conf and hostname" equal "$(label_inside "$pid" /etc/resolv.conf) $(label_inside "$pid" /etc/hostname)" \
    "$mount_type:$level $mount_type:$level"
  check "selinux: $handler: a volume that asks for it, to the bottom" equal "$(stat -c %C $volume $volume/below/file | uniq)" "$mount_type:$level"
  check "selinux: $handler: and none that does not" differ "$(stat -c %C /srv/kept)" "$mount_type:$level"
  check "selinux: $handler: what is written there has it too" equal "$(exec_sync "$first" 'echo x >/volume/new' | jq -r .stderr; stat -c %C $volume/new)" \
    $'\n'"$mount_type:$level"
  held "$handler" "$first" "$other"
  kept "$handler" "${pods[0]}" "$level"
  check "selinux: $handler: stopp" cri stopp "${pods[@]}"
  check "selinux: $handler: rmp" cri rmp "${pods[@]}"
  check "selinux: $handler: nothing is left" nothing_left
  rm -r "$volume"
}

# held HANDLER OWNER STRANGER: with the policy in force.
held() {
  setenforce 1
  check "selinux: $1: in force, the owner reads its volume" equal "$(exec_sync "$2" 'cat /volume/below/file' | jq -r .stdout)" mine
  check "selinux: $1: in force, another pod does not" grep -q 'Permission denied' <<<"$(exec_sync "$3" 'cat /volume/below/file' | jq -r .stderr)"
  setenforce 0
}

# kept HANDLER POD_ID LEVEL: another daemon knows whose the level is.
kept() {
  local id
  check "selinux: $1: restart" systemctl restart berth
  id=$(labelled "$2" "$1-one" "$1-later")
  check "selinux: $1: after a restart the pod has its level" equal "$(level_of "$(label_of "$(pid_of "$id")")")" "$3"
}

labels_by_request() {
  local pods=() id pid name=selinux-asked privileged=selinux-privileged node=selinux-node level
  local options='{user: "staff_u", role: "system_r", type: "svirt_lxc_net_t", level: "s0:c5,c4"}'
  pods+=("$(labelled_pod $name crun ".linux.security_context.selinux_options = {level: \"s0:c7,c9\"}")")
  check 'selinux: a level that the pod asks for' equal "$(label_of "$(pid_of "${pods[0]}")")" system_u:system_r:container_t:s0:c7,c9
  id=$(labelled "${pods[0]}" $name $name-plain)
  check 'selinux: is its containers'"'" equal "$(label_of "$(pid_of "$id")")" system_u:system_r:container_t:s0:c7,c9
  id=$(labelled "${pods[0]}" $name $name-full ".linux.security_context.selinux_options = ${options/staff_u/system_u}")
  pid=$(pid_of "$id")
  check 'selinux: a whole label, as the policy writes it' equal "$(label_of "$pid")" system_u:system_r:container_t:s0:c4,c5
  check 'selinux: and its files'"'" equal "$(context_of "$pid" /)" $mount_type:s0:c4,c5
  container $name-wrong true
  change $name-wrong.container '.linux.security_context.selinux_options = {level: "s0,c4,c5"}'
  check 'selinux: a wrong level is refused by name' refused 'config.linux.security_context.selinux_options.level: .*s0,c4,c5.* is not in' \
    cri create "${pods[0]}" "$work/$name-wrong.container.json" "$work/$name.json"
  change $name-wrong.container '.linux.security_context.selinux_options = {type: "nobody_knows_t"}'
  check 'selinux: and a wrong type' refused 'selinux_options.type: .*nobody_knows_t.* is not in' \
    cri create "${pods[0]}" "$work/$name-wrong.container.json" "$work/$name.json"
  pod selinux-wrong ''
  change selinux-wrong '.linux.security_context.selinux_options = {user: "nobody_u"}'
  check 'selinux: and a wrong user of a pod' refused 'selinux_options.user: .*nobody_u.* is not in' cri runp "$work/selinux-wrong.json"
  change $name-wrong.container 'del(.linux.security_context) | .mounts = [{host_path: "/usr/share", container_path: "/s", selinux_relabel: true}]'
  check "selinux: the node's own files are not labelled" refused "config.mounts\[0\].host_path: .*/usr/share.* holds the node's own files" \
    cri create "${pods[0]}" "$work/$name-wrong.container.json" "$work/$name.json"
  check 'selinux: they have kept their label' equal "$(stat -c %C /usr/share)" system_u:object_r:usr_t:s0

  pods+=("$(labelled_pod $privileged crun '.linux.security_context.privileged = true')")
  mkdir -p /srv/unlabelled
  id=$(labelled "${pods[1]}" $privileged $privileged-main \
    '.linux.security_context.privileged = true | .mounts = [{host_path: "/srv/unlabelled", container_path: "/v", selinux_relabel: true}]')
  pid=$(pid_of "$id")
  check 'selinux: a privileged container is not confined' equal "$(label_of "$pid")" system_u:system_r:spc_t:s0
  check 'selinux: its files have a level nevertheless' is_pair "$(level_of "$(context_of "$pid" /)")"
  check 'selinux: and its volumes keep what they have' differ "$(stat -c %C /srv/unlabelled)" "$(context_of "$pid" /)"
  id=$(labelled "${pods[1]}" $privileged $privileged-asked ".linux.security_context.privileged = true | .linux.security_context.selinux_options = {type: \"container_t\"}")
  check 'selinux: unless it asks for it' equal "$(label_of "$(pid_of "$id")" | cut -d : -f 3)" container_t

  pods+=("$(labelled_pod $node runc '.linux.security_context.namespace_options.network = 2')")
  id=$(labelled "${pods[2]}" $node $node-main '.linux.security_context.namespace_options.network = 2')
  check "selinux: a container on the node's network is not confined" equal "$(label_of "$(pid_of "$id")")" system_u:system_r:spc_t:s0
  check 'selinux: stopp of all' cri stopp "${pods[@]}"
  check 'selinux: rmp of all' cri rmp "${pods[@]}"
  check 'selinux: nothing is left of all' nothing_left
}

# Switched off, labels mean as little as on a kernel without SELinux.
labels_off() {
  local pod id
  mkdir -p /etc/berth/berth.conf.d
  printf '[runtime]\nselinux = false\n' >/etc/berth/berth.conf.d/selinux.conf
  systemctl restart berth
  pod=$(labelled_pod selinux-off crun)
  id=$(labelled "$pod" selinux-off selinux-off-main '.linux.security_context.selinux_options = {type: "nobody_knows_t"}')
  check 'selinux: switched off, nothing is labelled' equal "$(context_of "$(pid_of "$id")" /)" ''
  check 'selinux: switched off, which is said' grep -q 'Passed over SELinux labels' <<<"$(journalctl -u berth -o cat)"
  check 'selinux: switched off, rmp' cri rmp --force "$pod"
  rm /etc/berth/berth.conf.d/selinux.conf
  systemctl restart berth
  check 'selinux: switched off, nothing is left' nothing_left
}
