# Of test/vm/guest: pods with a user namespace.

# A pod with a user namespace, as the kubelet asks for it.
part_userns() {
  local pod id pid host=$((65536 * 16))
  [ "$(cri info | jq -r '[.runtimeHandlers[]? | select(.name == "crun" or .name == null) | .features.user_namespaces // .features.userNamespaces] | any')" = true ] ||
    { note "skipped userns: the handler or the kernel cannot: $(cri info | jq -c '.runtimeHandlers')"; return; }
  pod userns ''
  jq --argjson host $host '.linux.security_context.namespace_options = {userns_options: {mode: 0, uids: [{host_id: $host, container_id: 0, length: 65536}],
    gids: [{host_id: $host, container_id: 0, length: 65536}]}}' "$work/userns.json" >"$work/mapped.json" && mv "$work/mapped.json" "$work/userns.json"
  pod=$(cri runp -r crun "$work/userns.json") || { check 'userns: runp' false; return; }
  container userns-main "$forever"
  jq '.linux.security_context.namespace_options = $options' --argjson options "$(jq .linux.security_context.namespace_options "$work/userns.json")" \
    "$work/userns-main.container.json" >"$work/mapped.json" && mv "$work/mapped.json" "$work/userns-main.container.json"
  id=$(cri create "$pod" "$work/userns-main.container.json" "$work/userns.json") && cri start "$id" >/dev/null
  pid=$(pid_of "$id")
  check 'userns: its root is a user that nobody is on the node' equal "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" $host
  check 'userns: the mapping' equal "$(tr -s ' ' </proc/"$pid"/uid_map)" " 0 $host 65536"
  check 'userns: it is root inside, of its own files' equal "$(exec_sync "$id" 'echo x >/tmp/mine && cat /tmp/mine && sh -c "cat /proc/self/uid_map" | tr -s " "' | jq -r .stdout | head -n 1)" x
  check 'userns: the image belongs to its root' equal "$(stat -c %u "/proc/$pid/root/bin/busybox")" $host
  check 'userns: its scope is there' test -d "$cgroups/system.slice/berth-$id.scope"
  check 'userns: stopp' cri stopp "$pod"
  check 'userns: rmp' cri rmp "$pod"
  check 'userns: nothing is left' nothing_left
}
