# Of test/vm/guest: networks that need kernel modules.

# The networks of contrib/cni that need what few kernels have built in, on a card of the guest's own.
part_networks() {
  local kind
  ip link add eth9 type veth peer name cable9 && ip link set eth9 up && ip link set cable9 up
  mv /etc/cni/net.d/10-berth.conflist /root/
  for kind in macvlan ipvlan vlan; do on_network $kind; done
  mv /root/10-berth.conflist /etc/cni/net.d/
  eventually chosen berth
  ip link del eth9
  check 'networks: nothing is left' nothing_left
}
chosen() { journalctl -u berth -o cat | grep 'Chose pod network' | tail -n 1 | grep -F "\"network\":\"$1\""; }
# on_network KIND: pods on it reach each other; one in the case of vlan, which takes no more.
on_network() {
  local kind=$1 file=/etc/cni/net.d/20-$1.conflist n address ids=()
  jq --arg name "vm-$kind" '.name = $name | .plugins[0].master = "eth9"' /payload/cni/"$kind"/*.conflist >"$file"
  check "$kind: berth takes the network" eventually chosen "vm-$kind"
  for n in $([ "$kind" = vlan ] && echo 1 || echo 1 2); do
    pod "$kind-$n" ''
    ids+=("$(cri runp "$work/$kind-$n.json")")
  done
  address=$(cri inspectp "${ids[0]}" | jq -r .status.network.ip)
  check "$kind: the pod has an address of it" grep -q '^192\.0\.2\.' <<<"$address"
  check "$kind: its card is one" grep -q "$kind" <<<"$(nsenter --net="/run/netns/berth-${ids[0]}" ip -d link show eth0)"
  [ "$kind" = vlan ] || check "$kind: the pods reach each other" nsenter --net="/run/netns/berth-${ids[1]}" busybox ping -c 1 -W 20 "$address"
  check "$kind: stopp" cri stopp "${ids[@]}"
  check "$kind: rmp" cri rmp "${ids[@]}"
  check "$kind: the addresses are free again" equal "$(find "/var/lib/cni/networks/vm-$kind" -name '192.*')" ''
  rm "$file"
}
