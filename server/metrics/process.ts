import { readdir } from 'node:fs/promises';
import { monitorEventLoopDelay, performance } from 'node:perf_hooks';
import { Counter, Gauge, type Registry } from 'prom-client';

/**
 * What Prometheus expects of every process, and how busy the event loop is, all read at the scrape. Nothing here has a
 * timer or a hook into the garbage collector: an idle daemon stays idle.
 */
export function registerProcessMetrics(registry: Registry): Disposable {
  const registers = [registry];
  new Gauge({ name: 'process_start_time_seconds', help: 'Start of the process, in seconds since 1970.', registers }).set(performance.timeOrigin / 1000);
  new Gauge({
    name: 'process_resident_memory_bytes',
    help: 'Resident memory.',
    registers,
    collect() {
      this.set(process.memoryUsage.rss());
    },
  });
  new Gauge({
    name: 'process_open_fds',
    help: 'Open file descriptors.',
    registers,
    async collect() {
      this.set((await readdir('/proc/self/fd')).length - 1); // one is the directory itself
    },
  });
  new Counter({
    name: 'process_cpu_seconds_total',
    help: 'CPU time, user and system.',
    registers,
    collect() {
      const { user, system } = process.cpuUsage();
      this.reset();
      this.inc((user + system) / 1e6);
    },
  });
  new Counter({
    name: 'berth_event_loop_active_seconds_total',
    help: 'Time in which the event loop had work.',
    registers,
    collect() {
      this.reset();
      this.inc(performance.eventLoopUtilization().active / 1000);
    },
  });
  // One sample per turn of the loop: how long a turn kept everything else waiting. The other mode wakes up by a timer.
  const turns = monitorEventLoopDelay({ samplePerIteration: true });
  turns.enable();
  const turnGauge = (name: string, what: string, nanoseconds: () => number): void => {
    new Gauge({
      name,
      help: `${what} of the event loop since the scrape before.`,
      registers,
      collect() {
        this.set(turns.count === 0 ? 0 : nanoseconds() / 1e9);
      },
    });
  };
  turnGauge('berth_event_loop_turn_p99_seconds', '99th percentile of the length of a turn', () => turns.percentile(99));
  // Collected in the order of registration: the last one begins the next period.
  turnGauge('berth_event_loop_turn_max_seconds', 'Longest turn', () => {
    const { max } = turns;
    turns.reset();
    return max;
  });
  return {
    [Symbol.dispose]: () => {
      turns.disable();
    },
  };
}
