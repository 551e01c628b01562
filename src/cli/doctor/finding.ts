/** What `doctor` says about one thing. */
import { messageOf } from '../../errors.ts';

/** `fail` keeps the node from working, `warn` costs something, `info` is for the reader. */
export type Level = 'ok' | 'info' | 'warn' | 'fail';

export interface Finding {
  readonly check: string;
  readonly level: Level;
  readonly detail: string;
  readonly remedy: string | null;
}

export const ok = (check: string, detail: string): Finding => ({ check, level: 'ok', detail, remedy: null });
export const info = (check: string, detail: string): Finding => ({ check, level: 'info', detail, remedy: null });
export const warn = (check: string, detail: string, remedy: string): Finding => ({
  check,
  level: 'warn',
  detail,
  remedy,
});
export const fail = (check: string, detail: string, remedy: string): Finding => ({
  check,
  level: 'fail',
  detail,
  remedy,
});

/** What `probe` throws becomes a failed check with this remedy. */
export async function attempt(
  check: string,
  remedy: string,
  probe: () => Promise<Finding> | Finding,
): Promise<Finding> {
  try {
    return await probe();
  } catch (error) {
    return fail(check, messageOf(error), remedy);
  }
}
