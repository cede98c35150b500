import { fork } from 'node:child_process';
import { InputError } from '../../rewriter/errors.js';
import { onInterrupt } from '../cleanup.js';
import { RemoteFailure } from '../errors.js';
import { ProgressBar } from '../terminal.js';
import type { JobName, JobReply, Jobs } from './jobs.js';

const JOB_PROCESS = new URL('./job-process.js', import.meta.url);

/**
 * Does a job in a process of its own, drawing its progress. Inference blocks the thread that it runs on, so
 * this is what keeps Ctrl-C and progress alive; it gives back all memory at the end, makes peak memory
 * measurable, and survives a runtime that crashes.
 * @throws the job's own failure, or InputError when the process was killed from outside
 */
export async function runJob<J extends JobName>(
  job: J,
  request: Jobs[J]['request'],
): Promise<Jobs[J]['result']> {
  const child = fork(JOB_PROCESS, {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const withdraw = onInterrupt(() => child.kill('SIGKILL'));
  const bar = new ProgressBar();
  try {
    return await new Promise<Jobs[J]['result']>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code, signal) => reject(diedEarly(code, signal)));
      child.on('message', (reply: JobReply) => {
        if (reply.kind === 'progress') bar.update(reply.done, reply.total, reply.label);
        else if (reply.kind === 'failure') reject(new RemoteFailure(reply.failure));
        else resolve(reply.result as Jobs[J]['result']);
      });
      child.send({ job, request });
    });
  } finally {
    bar.clear();
    withdraw();
    child.kill('SIGKILL');
  }
}

/** A process that ends without a reply was killed, or brought down by the runtime. */
function diedEarly(code: number | null, signal: NodeJS.Signals | null): Error {
  if (signal === 'SIGKILL') {
    return new InputError('the process that runs the model was killed, most likely for want of memory', {
      remedy: 'Choose a shorter --length, close other programs, or rewrite with --no-validate.',
    });
  }
  return new InputError(`the runtime crashed while it ran the model (${signal ?? `exit code ${code}`})`, {
    remedy: 'Check that the model runs in ONNX Runtime at all; rewrite with --no-validate to leave this out.',
  });
}
