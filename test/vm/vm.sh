#!/bin/bash
# Boots a guest with systemd, cgroup v2 and AppArmor and runs test/vm/guest in it: Debian's kernel and packages under QEMU
# without hardware virtualisation, some ten times slower than the machine below. Needs root and the packages qemu-system-x86
# mmdebstrap e2fsprogs cpio kmod busybox-static, a built dist/, and crictl (PATH, or test/.cache/bin from test/run).
#   test/vm/vm.sh [PART...]    the parts of test/vm/guest to run, by default all
# The exit code is the guest's: 0 when every check held. VM_MEM (MiB) and VM_TIMEOUT (seconds) may be set.
set -euo pipefail
readonly tree=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
readonly work=$tree/test/.cache/vm
readonly packages=systemd-sysv,dbus,udev,kmod,iproute2,iptables,ca-certificates,procps,apparmor,runc,crun,conmon,containernetworking-plugins,catatonit,busybox-static,jq,libatomic1

die() { printf 'test/vm: %s\n' "$*" >&2; exit 2; }

# The guest without the payload. Made once; again when what it holds changes.
make_base() {
  [ "$(cat base.done 2>/dev/null)" != "$packages" ] || return 0
  rm -rf base.done kernel rootfs initrd
  local package version module unit
  package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
  apt-get -q download "$package" >apt.log 2>&1 || die "cannot fetch $package, see $work/apt.log"
  dpkg -x "$package"_*.deb kernel
  rm -f -- "$package"_*.deb
  mmdebstrap --quiet --variant=minbase --include=$packages bookworm rootfs
  cp -a kernel/lib/modules rootfs/lib/
  version=$(ls kernel/lib/modules)
  depmod -b "$PWD/rootfs" "$version"
  printf '%s\n' overlay veth bridge br_netfilter nf_tables nft_compat nft_chain_nat xt_comment xt_mark xt_addrtype xt_MASQUERADE \
    xt_nat xt_conntrack >rootfs/etc/modules-load.d/berth.conf
  cat >rootfs/etc/systemd/system/payload.service <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c "/payload/run >/dev/ttyS0 2>&1; echo VM-EXIT $? >/dev/ttyS0; systemctl poweroff --force"
UNIT
  mkdir -p rootfs/etc/systemd/system/multi-user.target.wants
  ln -sf ../payload.service rootfs/etc/systemd/system/multi-user.target.wants/
  for unit in serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer; do
    ln -sf /dev/null rootfs/etc/systemd/system/$unit
  done
  echo berth-vm >rootfs/etc/hostname
  echo '/dev/vda / ext4 defaults 0 1' >rootfs/etc/fstab
  mkdir -p initrd/{bin,mod,proc,sys,dev,root}
  cp /bin/busybox initrd/bin/
  for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do
    cp "$(find rootfs/lib/modules -name "$module.ko")" initrd/mod/
  done
  cat >initrd/init <<'INIT'
#!/bin/busybox sh
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk; do /bin/busybox insmod /mod/$module.ko; done
/bin/busybox mount -t devtmpfs dev /dev
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; /bin/busybox sleep 0.3; done
/bin/busybox mount -t ext4 /dev/vda /root && exec /bin/busybox switch_root /root /sbin/init
INIT
  chmod +x initrd/init
  (cd initrd && find . | cpio -o -H newc 2>/dev/null | gzip -1) >initrd.gz
  printf %s "$packages" >base.done
}

# As an administrator would install it: the tree's dist/ with Node beside, the unit, a network.
add_payload() {
  local crictl
  [ -e "$tree/dist/berth.js" ] || die 'no dist/: npm run build'
  crictl=$(command -v crictl || echo "$tree/test/.cache/bin/crictl")
  [ -x "$crictl" ] || die 'no crictl on PATH, nor in test/.cache/bin: test/run makes it'
  rm -rf rootfs/payload rootfs/usr/lib/berth
  mkdir -p rootfs/payload rootfs/usr/lib/berth/dist rootfs/etc/cni/net.d
  cp "$tree"/dist/{berth,*.js,koffi.node} rootfs/usr/lib/berth/dist/
  cp -L "$tree/node_modules/.bin/node" rootfs/usr/lib/berth/dist/node
  cp -L "$crictl" rootfs/usr/bin/crictl
  cp "$tree/contrib/berth.service" rootfs/etc/systemd/system/
  cp "$tree/contrib/crictl.yaml" rootfs/etc/crictl.yaml
  cp "$tree/contrib/10-berth-bridge.conflist" rootfs/etc/cni/net.d/
  cp "$tree/test/vm/guest" rootfs/payload/guest
  printf '#!/bin/sh\nexec /payload/guest %s\n' "$*" >rootfs/payload/run
  chmod +x rootfs/payload/{run,guest}
  rm -f disk.img
  mke2fs -q -t ext4 -d rootfs disk.img 3G
}

mkdir -p "$work"
cd "$work"
make_base
add_payload "$@"
timeout "${VM_TIMEOUT:-1500}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${VM_MEM:-3072}" -nographic -no-reboot -nic none \
  -kernel "$(ls kernel/boot/vmlinuz-*)" -initrd initrd.gz -drive file=disk.img,if=virtio,format=raw \
  -append 'console=ttyS0 quiet panic=-1 systemd.show_status=0 loglevel=3 mitigations=off net.ifnames=0 systemd.unified_cgroup_hierarchy=1 apparmor=1 security=apparmor' \
  </dev/null | stdbuf -oL tr -d '\r' | tee console.log || true
exit "$(sed -n 's/.*VM-EXIT \([0-9]*\).*/\1/p' console.log | tail -n 1 | grep . || echo 125)"
