import { createServer } from 'node:net';
import { CriError, isErrno } from '#base/errors.ts';

/**
 * Makes sure that one daemon alone works on a root directory: by an abstract unix socket of its name, which the kernel
 * frees when its owner dies, however that happens.
 * @throws {CriError} failedPrecondition when another daemon has it.
 */
export async function holdRoot(root: string): Promise<AsyncDisposable> {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (err) => {
      reject(isErrno(err, 'EADDRINUSE') ? new CriError('failedPrecondition', `root ${root}: another berth daemon works on it`, { cause: err }) : err);
    });
    server.listen(`\0berth:${root}`, resolve);
  });
  server.unref();
  return server;
}
