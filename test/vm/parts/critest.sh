# Of test/vm/guest: critest's specs.

# critest: its specs whose names match.
critest_specs() {
  local what=$1 log=/root/critest.log status registry
  docker-registry serve /etc/registry.yml >/root/registry.log 2>&1 &
  registry=$!
  eventually test -n "$(ss -ltnH 'sport = :5000')"
  critest -runtime-endpoint unix://$socket -image-endpoint unix://$socket -runtime-service-timeout 300s -image-service-timeout 300s \
    -ginkgo.no-color -ginkgo.seed 1 -ginkgo.focus "$what" >$log 2>&1
  status=$?
  kill $registry
  cri rmp --all --force >/dev/null 2>&1
  check "critest: $what: $(grep -E '^Ran [0-9]+ of' $log || tail -n 3 $log)" equal $status 0
  [ $status = 0 ] || grep -E -A 4 '^\s*\[(FAIL|FAILED)\]' $log | sort -u
  check "critest: $what: has run some" grep -q '^Ran [1-9]' $log
  check "critest: $what: nothing is left" nothing_left
}
part_apparmor() {
  proves LinuxContainerSecurityContext.apparmor LinuxContainerSecurityContext.apparmor_profile SecurityProfile.profile_type SecurityProfile.localhost_ref
  critest_specs AppArmor
}
part_security() { critest_specs 'Security Context|OOM|Multiple Containers|Mount'; }
