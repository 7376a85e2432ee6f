# Of test/vm/guest: pods that a power cut ends.

# Pods that a reboot ends: the second boot looks what is known of them.
part_reboot() {
  local old
  mkdir -p /root/reboot
  bring_up
  printf '%s\n' "${pods[@]}" >/root/reboot/pods
  printf '%s\n' "${ids[@]}" >/root/reboot/ids
  old=$(launch "${pods[0]}" live-crun ended 'echo said; exit 7')
  eventually is_state "$old" CONTAINER_EXITED
  echo "$old" >/root/reboot/ended
  ls /var/lib/cni/networks/*/10.* >/root/reboot/leases
  check 'reboot: there are pods with addresses to lose' test -s /root/reboot/leases
  echo rebooted >/payload/next
  next=reboot
}

part_rebooted() {
  local pods ids ended id
  mapfile -t pods </root/reboot/pods
  mapfile -t ids </root/reboot/ids
  ended=$(cat /root/reboot/ended)
  rm /payload/next
  check 'rebooted: the pods are there, not ready' equal "$(cri pods -o json | jq -r '.items[].state' | sort | uniq -c | tr -s ' ')" " ${#pods[@]} SANDBOX_NOTREADY"
  check 'rebooted: what had ended has its exit code' equal "$(end_of "$ended")" '7 Error'
  check 'rebooted: and its log' grep -q said /var/log/pods/live-crun/ended.log
  for id in "${ids[@]}"; do
    check 'rebooted: what ran is ended, and not well' equal "$(end_of "$id")" '255 Unknown'
    check 'rebooted: for that reason' grep -q reboot <<<"$(message_of "$id")"
  done
  check 'rebooted: none has an address any more' equal "$(for id in "${pods[@]}"; do cri inspectp "$id" | jq -r '.status.network.ip // empty'; done)" ''
  # What a kubelet does: a new attempt beside the old one, then the old one goes.
  jq '.metadata.attempt = 1' "$work/live-crun.json" >"$work/again.json" 2>/dev/null || { pod live-crun ''; jq '.metadata.attempt = 1' "$work/live-crun.json" >"$work/again.json"; }
  id=$(cri runp "$work/again.json")
  check 'rebooted: the next attempt has an address' test -n "$(cri inspectp "$id" | jq -r '.status.network.ip // empty')"
  check 'rebooted: stopp of all' cri stopp "${pods[@]}" "$id"
  check 'rebooted: rmp of all' cri rmp "${pods[@]}" "$id"
  eventually leases_gone
  check 'rebooted: their addresses are free again' leases_gone
  check 'rebooted: nothing is left' nothing_left
}
leases_gone() { [ -z "$(find /var/lib/cni/networks -name '10.*')" ]; }
