import { defineConfig } from 'vitest/config';

const root = { extends: true as const };

export default defineConfig({
  test: {
    pool: 'forks',
    projects: [
      { ...root, test: { name: 'unit', include: ['test/unit/**/*.test.ts'] } },
      {
        ...root,
        test: { name: 'integration', include: ['test/integration/**/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000 },
      },
      { ...root, test: { name: 'e2e', include: ['test/e2e/**/*.test.ts'], testTimeout: 180_000, hookTimeout: 300_000 } },
    ],
  },
});
