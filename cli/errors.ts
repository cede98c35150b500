import { InputError } from '../rewriter/errors.js';
import { ExitCode } from './exit-codes.js';

/** A budget or a check that failed, where there is no result to show it in. Exit code 1. */
export class CheckFailure extends Error {
  override readonly name = 'CheckFailure';
}

/** An error in the form in which it passes between processes and reaches the user. */
export interface Failure {
  readonly exitCode: ExitCode;
  readonly message: string;
  readonly remedy: string | null;
  readonly stack: string | null;
}

/** What went wrong, for whom, and with which exit code. */
export function describeFailure(error: unknown): Failure {
  const stack = error instanceof Error ? (error.stack ?? null) : null;
  if (error instanceof RemoteFailure) return error.failure;
  if (error instanceof InputError) {
    const { file, node, remedy = null } = error.details;
    const missing = [file, node && `node "${node}"`].filter(part => part && !error.message.includes(part));
    return {
      exitCode: ExitCode.BadInput,
      message: [...missing, error.message.trimEnd()].join(': '),
      remedy,
      stack,
    };
  }
  // Messages of the runtime may end in a line feed.
  const message = (error instanceof Error ? error.message : String(error)).trimEnd();
  if (error instanceof CheckFailure) return { exitCode: ExitCode.CheckFailed, message, remedy: null, stack };
  const system = describeSystemError(error);
  if (system) return { exitCode: ExitCode.BadInput, ...system, stack };
  return {
    exitCode: ExitCode.Internal,
    message: `internal error: ${message}`,
    remedy: 'Run again with --verbose and report what it prints.',
    stack,
  };
}

/** A failure that another process reported. */
export class RemoteFailure extends Error {
  override readonly name = 'RemoteFailure';

  constructor(readonly failure: Failure) {
    super(failure.message);
  }
}

/** Errors of the operating system that the user can do something about. */
const SYSTEM_ERRORS: Readonly<Record<string, readonly [message: string, remedy: string]>> = {
  ENOSPC: ['no space left on the device', 'Free some space or write elsewhere.'],
  EDQUOT: ['the disk quota is used up', 'Free some space or write elsewhere.'],
  EFBIG: ['the file is too large for the file system', 'Write elsewhere.'],
  EROFS: ['the file system is read-only', 'Write elsewhere.'],
  EACCES: ['permission denied', 'Check the permissions or write elsewhere.'],
  EPERM: ['operation not permitted', 'Check the permissions or write elsewhere.'],
  ENOENT: ['no such file or folder', 'Check the path.'],
  ENOTDIR: ['a part of the path is not a folder', 'Check the path.'],
  EISDIR: ['this is a folder', 'Give the path of a file.'],
};

function describeSystemError(error: unknown): { message: string; remedy: string } | null {
  if (!(error instanceof Error)) return null;
  const { code, path } = error as NodeJS.ErrnoException;
  const known = code === undefined ? undefined : SYSTEM_ERRORS[code];
  if (known === undefined) return null;
  const [message, remedy] = known;
  return { message: path === undefined ? message : `${path}: ${message}`, remedy };
}
