import { InputError } from '../../rewriter/errors.js';
import { Comparer } from './comparer.js';
import type { ComparisonRequest, WorkerMessage } from './messages.js';

/** Everything that takes long happens here, so that the page stays responsive and can cancel it. */

const post = (message: WorkerMessage) => globalThis.postMessage(message);
const comparer = new Comparer((stage, fraction) => post({ kind: 'progress', stage, fraction }));

globalThis.onmessage = async ({ data }: MessageEvent<ComparisonRequest>) => {
  try {
    post({ kind: 'done', comparison: await comparer.compare(data) });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    post({
      kind: 'failed',
      message,
      remedy: error instanceof InputError ? (error.details.remedy ?? null) : null,
    });
  }
};
