/** Asks the CNI executable for its VERSION, as a container runtime does: needs no agent. */
import { spawn } from 'node:child_process';
import { messageOf, VirtioUserError } from '../errors.ts';

const limitMs = 5_000;
const maximumAnswerBytes = 64 * 1024;

/** CNI versions that the executable supports. @throws VirtioUserError SYSCALL_FAILED when it does not answer */
export async function supportedCniVersions(path: string): Promise<readonly string[]> {
  let answer: string;
  try {
    answer = await run(path);
    const reply: unknown = JSON.parse(answer);
    if (typeof reply === 'object' && reply !== null && 'supportedVersions' in reply) {
      const { supportedVersions } = reply;
      if (Array.isArray(supportedVersions)) return supportedVersions.map(String);
    }
  } catch (error) {
    throw new VirtioUserError('SYSCALL_FAILED', `run ${path} with CNI_COMMAND=VERSION: ${messageOf(error)}`, {
      remedy: 'the file must be the virtio-user executable built for this machine, on a file system without noexec',
      cause: error,
    });
  }
  throw new VirtioUserError(
    'SYSCALL_FAILED',
    `run ${path} with CNI_COMMAND=VERSION: it answered ${answer.slice(0, 200)}`,
  );
}

function run(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(path, [], { env: { CNI_COMMAND: 'VERSION' }, stdio: ['pipe', 'pipe', 'ignore'] });
    // Not spawn's own `timeout`: it outlives a process that could not be started, and holds us up.
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (text.length > maximumAnswerBytes) child.kill('SIGKILL');
    });
    child.stdin.on('error', () => undefined);
    child.stdin.end('{"cniVersion":"1.0.0"}');
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      if (code === 0) resolve(text);
      else
        reject(new Error(signal === null ? `exit code ${String(code)}` : `ended by ${signal} (limit ${limitMs} ms)`));
    });
  });
}
