import { fork } from 'node:child_process';
import { InputError } from '../../rewriter/errors.js';
import { onInterrupt } from '../cleanup.js';
import { RemoteFailure } from '../errors.js';
import { ProgressBar } from '../terminal.js';
import type { JobName, JobReply, Jobs } from './jobs.js';

const JOB_PROCESS = new URL('./job-process.js', import.meta.url);

/** A job whose process ended without a reply. */
export class JobDied extends InputError {
  constructor(
    message: string,
    remedy: string,
    readonly end: 'killed' | 'crashed' | 'too slow',
    /** The step that was under way, as the job counts them. */
    readonly step: number,
  ) {
    super(message, { remedy });
  }
}

export interface JobLimits {
  /** The longest that a step may take before the process is ended; null for no limit. */
  readonly secondsFor?: (step: number) => number | null;
}

/**
 * Does a job in a process of its own, drawing its progress. Inference blocks the thread that it runs on, so
 * this is what keeps Ctrl-C and progress alive; it gives back all memory at the end, makes peak memory
 * measurable, and survives a runtime that crashes.
 * @throws the job's own failure, or JobDied when the process ended otherwise or took too long
 */
export async function runJob<J extends JobName>(
  job: J,
  request: Jobs[J]['request'],
  { secondsFor = () => null }: JobLimits = {},
): Promise<Jobs[J]['result']> {
  const child = fork(JOB_PROCESS, {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const withdraw = onInterrupt(() => child.kill('SIGKILL'));
  const bar = new ProgressBar();
  let timer: NodeJS.Timeout | undefined;
  try {
    return await new Promise<Jobs[J]['result']>((resolve, reject) => {
      let step = 0;
      const watch = () => {
        clearTimeout(timer);
        const seconds = secondsFor(step);
        if (seconds === null) return;
        timer = setTimeout(() => reject(tooSlow(seconds, step)), 1000 * seconds);
      };
      child.once('error', reject);
      child.once('exit', (code, signal) => reject(diedEarly(code, signal, step)));
      child.on('message', (reply: JobReply) => {
        if (reply.kind === 'progress') {
          step = reply.done;
          watch();
          bar.update(reply.done, reply.total, reply.label);
        } else if (reply.kind === 'failure') reject(new RemoteFailure(reply.failure));
        else resolve(reply.result as Jobs[J]['result']);
      });
      child.send({ job, request });
    });
  } finally {
    clearTimeout(timer);
    bar.clear();
    withdraw();
    child.kill('SIGKILL');
  }
}

/** A process that ends without a reply was killed, or brought down by the runtime. */
function diedEarly(code: number | null, signal: NodeJS.Signals | null, step: number): JobDied {
  if (signal === 'SIGKILL') {
    return new JobDied(
      'the process that runs the model was killed, most likely for want of memory',
      'Choose a shorter --length, close other programs, or rewrite with --no-validate.',
      'killed',
      step,
    );
  }
  return new JobDied(
    `the runtime crashed while it ran the model (${signal ?? `exit code ${code}`})`,
    'Check that the model runs in ONNX Runtime at all; rewrite with --no-validate to leave this out.',
    'crashed',
    step,
  );
}

function tooSlow(seconds: number, step: number): JobDied {
  return new JobDied(
    `a run took longer than ${seconds} s`,
    'Choose a shorter --length or more --max-seconds.',
    'too slow',
    step,
  );
}
