import { ExitCode } from './exit-codes.js';

/** Actions that must happen however the process ends, short of being killed outright. */
const actions = new Set<() => void>();

/**
 * Registers `action` for the case that the process is interrupted. It must be synchronous.
 * @returns a function that withdraws it
 */
export function onInterrupt(action: () => void): () => void {
  actions.add(action);
  return () => actions.delete(action);
}

const SIGNAL_NUMBERS = { SIGHUP: 1, SIGTERM: 15 } as const;

let finish: (() => Promise<void>) | null = null;

/** Makes the first signal end the process by `action`, with exit code 0; a second one ends it at once. */
export function finishOnSignal(action: () => Promise<void>): void {
  finish = action;
}

/** Makes signals that end the process run the registered actions first. */
export function handleSignals(): void {
  process.on('SIGINT', () => interrupted(ExitCode.Interrupted));
  for (const [signal, number] of Object.entries(SIGNAL_NUMBERS)) {
    process.on(signal, () => interrupted(128 + number));
  }
}

async function interrupted(exitCode: number): Promise<void> {
  if (finish === null) end(exitCode);
  const action = finish;
  finish = null;
  await action();
  end(ExitCode.Done);
}

function end(exitCode: number): never {
  for (const action of actions) action();
  process.exit(exitCode);
}
