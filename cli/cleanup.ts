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

/** Makes signals that end the process run the registered actions first. */
export function handleSignals(): void {
  process.once('SIGINT', () => end(ExitCode.Interrupted));
  for (const [signal, number] of Object.entries(SIGNAL_NUMBERS)) {
    process.once(signal, () => end(128 + number));
  }
}

function end(exitCode: number): never {
  for (const action of actions) action();
  process.exit(exitCode);
}
