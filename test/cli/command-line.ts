import { type SpawnOptions, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const MAIN = fileURLToPath(new URL('../../cli/main.js', import.meta.url));

export interface CommandResult {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions extends Pick<SpawnOptions, 'cwd'> {
  /** Called once with the running process. */
  readonly onStart?: (child: ReturnType<typeof spawn>) => void;
}

/** Runs the command line as users do, in a process of its own. */
export function onnxRewrite(args: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
  return runProcess(process.execPath, [MAIN, ...args], options);
}

export function runProcess(
  command: string,
  args: readonly string[],
  { cwd, onStart }: CommandOptions = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd, env: { ...process.env, NO_COLOR: '1' } });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', text => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', text => {
      stderr += text;
    });
    child.once('error', reject);
    child.once('close', (exitCode, signal) => resolve({ exitCode, signal, stdout, stderr }));
    onStart?.(child);
  });
}
