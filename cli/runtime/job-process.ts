import { benchModels } from '../bench-models.js';
import { calibrateModel } from '../calibration/calibrate-model.js';
import { describeFailure } from '../errors.js';
import { runModel } from '../run-model.js';
import { timeModels } from '../time-models.js';
import { tuneModel } from '../tune/tune-model.js';
import { validateModels } from '../validation/validate-models.js';
import type { JobMessage, JobName, JobReply, Jobs, Progress } from './jobs.js';

/** The process behind `runJob`: receives one job, replies, and is ended by its parent. */
process.once('message', async (message: JobMessage) => {
  try {
    reply({ kind: 'result', result: await perform(message) });
  } catch (error) {
    reply({ kind: 'failure', failure: describeFailure(error) });
  }
});

// The parent is gone: nobody waits for the result.
process.once('disconnect', () => process.exit());

const progress: Progress = (done, total, label) => reply({ kind: 'progress', done, total, label });

function perform(message: JobMessage): Promise<Jobs[JobName]['result']> {
  switch (message.job) {
    case 'validate':
      return validateModels(message.request, progress);
    case 'run':
      return runModel(message.request, progress);
    case 'time':
      return timeModels(message.request, progress);
    case 'bench':
      return benchModels(message.request, progress);
    case 'calibrate':
      return calibrateModel(message.request, progress);
    case 'tune':
      return tuneModel(message.request, progress);
  }
}

function reply(message: JobReply): void {
  process.send?.(message);
}
