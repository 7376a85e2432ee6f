import { expect, test } from 'vitest';
import { run } from '#base/exec.ts';
import { serveApi } from '../../fakes/api.ts';
import { findTool } from '../../support/tool.ts';

const crictl = findTool('crictl');
if (crictl === undefined) console.warn('crictl is not installed: the API is not tried with it');

const signal = AbortSignal.timeout(50_000);

test.skipIf(crictl === undefined)('crictl speaks with the API', async () => {
  await using api = await serveApi({
    Version: async () => ({ version: '0.1.0', runtime_name: 'berth', runtime_version: '0.1.0', runtime_api_version: 'v1' }),
  });
  const endpoint = ['-r', `unix://${api.path}`];
  const { stdout } = await run(crictl ?? '', [...endpoint, 'version'], { signal });
  expect(stdout).toContain('RuntimeName:  berth');
  expect(api.observed).toContain('Version OK');
});

test.skipIf(crictl === undefined)('crictl shows why a call failed', async () => {
  const gate = Promise.withResolvers<void>();
  await using api = await serveApi({
    Version: async () => ({ version: '0.1.0', runtime_name: 'berth', runtime_version: '0.1.0', runtime_api_version: 'v1' }),
    async StopContainer(_request, { stage }) {
      stage.name = 'kill by crun';
      await gate.promise;
      return {};
    },
  });
  const endpoint = ['-t', '1s', '-r', `unix://${api.path}`];
  await expect(run(crictl ?? '', [...endpoint, 'stop', 'abc'], { signal })).rejects.toMatchObject({
    stderr: expect.stringContaining('StopContainer: kill by crun did not finish within the deadline'),
  });
  await expect(run(crictl ?? '', [...endpoint, 'rm', 'abc'], { signal })).rejects.toMatchObject({
    stderr: expect.stringContaining('is not implemented by this version of Berth'),
  });
  gate.resolve();
  await api.services.drain();
});
