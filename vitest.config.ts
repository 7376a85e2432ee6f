import { defineConfig } from 'vitest/config';

/** Tests that need root: one file at a time, and after each one the machine must be as before. */
const asRoot = { setupFiles: ['test/support/check-machine.ts'], fileParallelism: false, teardownTimeout: 60_000 };

export default defineConfig({
  test: {
    pool: 'forks',
    // Bounds on what hangs, not measurements: a machine under load is slow.
    testTimeout: 30_000,
    expect: { poll: { timeout: 15_000 } },
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      {
        extends: true,
        test: { ...asRoot, name: 'integration', include: ['test/integration/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000 },
      },
      {
        extends: true,
        test: {
          ...asRoot,
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts'],
          globalSetup: ['test/support/registry.ts'],
          testTimeout: 180_000,
          hookTimeout: 300_000,
        },
      },
    ],
  },
});
