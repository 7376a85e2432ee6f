/** What this host and this daemon's own rights allow a container to have. Read once at start; none of it changes while the daemon runs. */
export interface HostFacts {
  /** The daemon's bounding set, names with `CAP_`, in the kernel's order. */
  readonly capabilities: readonly string[];
  /** The daemon's own oom_score_adj. */
  readonly oomScoreAdj: number;
  /** With CAP_SYS_RESOURCE a child may have a lower oom_score_adj than the daemon. */
  readonly canLowerOomScore: boolean;
  readonly seccomp: boolean;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  readonly cgroupV2: boolean;
  /** As the CRI writes them (`2MB`, `1GB`); empty where the hugetlb controller is missing. */
  readonly hugepageSizes: readonly string[];
  /** The kernel accounts swap by cgroup. */
  readonly swap: boolean;
  /** This machine's own, such as `SCMP_ARCH_X86_64`. */
  readonly seccompArchitecture: string;
}

export function readHostFacts(): Promise<HostFacts> {
  throw new Error('not written yet');
}
