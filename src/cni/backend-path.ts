/** `backend.path` with its placeholders: where a socket may lie. Links are refused later, when the path is opened. */
import { normalize } from 'node:path';
import { VirtioUserError } from '../errors.ts';
import { longestSocketPathBytes } from '../native/binding.ts';

function refused(what: string): VirtioUserError {
  return new VirtioUserError('CONFIG_UNSUPPORTED', `backend.path: ${what}`, { details: { key: 'backend.path' } });
}

/** @throws CONFIG_UNSUPPORTED for an unknown placeholder, or a value that would not stay one path component */
export function fillPlaceholders(template: string, values: ReadonlyMap<string, string>): string {
  const filled = template.replaceAll(/\{([^{}]*)\}/g, (whole, name: string) => {
    const value = values.get(name);
    if (value === undefined) {
      const accepted = [...values.keys()].map((key) => `{${key}}`).join(' ');
      throw refused(`placeholder ${whole.slice(0, 40)}; accepted: ${accepted}`);
    }
    if (!/^[A-Za-z0-9_][A-Za-z0-9._:-]{0,255}$/.test(value)) {
      throw refused(`${whole} is ${JSON.stringify(value.slice(0, 64))} for this pod, which cannot be part of a path`);
    }
    return value;
  });
  if (/[{}]/.test(filled))
    throw refused(`${JSON.stringify(template.slice(0, 200))}; accepted: a path with paired braces`);
  return filled;
}

/** @throws CONFIG_UNSUPPORTED outside the allowed directories, SOCKET_PATH when the kernel would not take its length */
export function checkBackendPath(path: string, backendDirs: readonly string[]): void {
  const shown = JSON.stringify(path.slice(0, 200));
  if (!path.startsWith('/') || normalize(path) !== path || path.endsWith('/') || /[\u0000-\u001f\u007f]/.test(path))
    throw refused(`${shown}; accepted: an absolute path without "..", "//", control characters or a trailing "/"`);
  const inside = (directory: string): boolean => path.startsWith(`${normalize(directory).replace(/\/$/, '')}/`);
  if (!backendDirs.some(inside)) throw refused(`${shown}; accepted: a path below ${backendDirs.join(', ')}`);
  const bytes = Buffer.byteLength(path);
  if (bytes > longestSocketPathBytes) {
    throw new VirtioUserError('SOCKET_PATH', `backend.path: ${shown} has ${bytes} bytes; accepted: under 108`, {
      details: { key: 'backend.path' },
    });
  }
}
