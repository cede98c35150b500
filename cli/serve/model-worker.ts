import { parentPort, workerData } from 'node:worker_threads';
import type { RuntimeDescription } from '../../rewriter/validation.js';
import type { ModelInput } from '../data/model-inputs.js';
import { describeFailure, type Failure } from '../errors.js';
import { refusable } from '../runtime/refusable.js';
import { type ModelSession, openSession, type SessionOptions } from '../runtime/session.js';
import { decodeRequest, type EncodedResponse, encodeResponse, RequestError } from './inference-protocol.js';

/**
 * The thread that holds a model: loading, inference, and the coding of tensors all block, and the thread that answers
 * HTTP must not.
 */

/** What the thread is started with. */
export interface WorkerSetup {
  readonly file: string;
  readonly name: string;
  readonly inputs: readonly ModelInput[];
  readonly options: SessionOptions;
}

export type WorkerMessage =
  | { readonly kind: 'infer'; readonly body: Uint8Array<ArrayBuffer>; readonly headerLength: number | null }
  | { readonly kind: 'close' };

export type WorkerReply =
  | { readonly kind: 'ready'; readonly runtime: RuntimeDescription }
  | { readonly kind: 'unloadable'; readonly failure: Failure }
  | { readonly kind: 'answer'; readonly response: EncodedResponse; readonly runMs: number }
  | { readonly kind: 'refusal'; readonly status: RequestError['status']; readonly message: string };

const { file, name, inputs, options } = workerData as WorkerSetup;
const port = parentPort!;

let session: ModelSession;
try {
  session = await refusable(file, () => openSession({ file }, options));
  port.on('message', async (message: WorkerMessage) => {
    if (message.kind === 'infer') await infer(message.body, message.headerLength);
    else {
      await session.release();
      port.close();
    }
  });
  reply({ kind: 'ready', runtime: session.runtime });
} catch (error) {
  reply({ kind: 'unloadable', failure: describeFailure(error) });
}

async function infer(body: Uint8Array, headerLength: number | null): Promise<void> {
  try {
    const request = decodeRequest(body, headerLength, inputs, session.outputNames);
    const start = performance.now();
    const results = await session.run(
      request.feeds,
      request.outputs.map(output => output.name),
    );
    const runMs = performance.now() - start;
    const response = encodeResponse(name, request, results);
    reply({ kind: 'answer', response, runMs }, [response.body.buffer]);
  } catch (error) {
    const status = error instanceof RequestError ? error.status : 500;
    reply({ kind: 'refusal', status, message: (error as Error).message });
  }
}

function reply(message: WorkerReply, transfer: readonly ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}
