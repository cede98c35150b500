import { openModelFile } from '../rewriter/onnx/model-file.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import { fileSource, generatedSource, type InputSource } from './data/input-source.js';
import { modelInputs } from './data/model-inputs.js';
import { repeatBatch } from './data/repeat-batch.js';
import type { TensorValue } from './data/tensor.js';
import { peakMemory } from './peak-memory.js';
import type { Progress } from './runtime/jobs.js';
import { refusable } from './runtime/refusable.js';
import { type ModelSession, openSession } from './runtime/session.js';

/** A model, and whether onnxruntime-node alone is to run it. */
export interface Contender {
  readonly model: string;
  readonly stock: boolean;
}

export interface BenchRequest {
  readonly contenders: readonly Contender[];
  /** Input file; null for generated inputs. */
  readonly inputs: string | null;
  /** Lengths of generated inputs, or of the text to take; null in place of one for the inputs as they are. */
  readonly lengths: readonly (number | null)[];
  readonly batch: number;
  /** Threads of one operator; null for the runtime's choice. */
  readonly threads: number | null;
  /** Timed runs at each length, after one that is not timed. */
  readonly runs: number;
}

export interface BenchResult {
  /** By contender. */
  readonly runtimes: readonly RuntimeDescription[];
  /** By contender, length and run. */
  readonly ms: readonly (readonly (readonly number[])[])[];
  /** Peak resident memory of this process: what a model takes when it is the only one. */
  readonly peak_bytes: number;
}

/** Idle threads of a session go on looking for work for a moment: long enough to be in the next one's way. */
const PAUSE_MS = 20;

/**
 * Times models against each other in one process: at every length all run once to warm up, then take turns, so
 * that whatever else the machine does falls on all of them.
 * @throws InputError when a model or its inputs are bad
 */
export async function benchModels(request: BenchRequest, progress: Progress): Promise<BenchResult> {
  const total = request.lengths.length * (request.runs + 1) * request.contenders.length;
  const entries: { readonly session: ModelSession; readonly source: InputSource; readonly ms: number[][] }[] =
    [];
  for (const { model, stock } of request.contenders) {
    progress(0, total, `loading ${model}`);
    const opened = openModelFile(model);
    const inputs = modelInputs(opened.model);
    opened.close();
    const source =
      request.inputs === null ? generatedSource(inputs, 'single') : fileSource(request.inputs, inputs);
    const session = await refusable(model, () =>
      openSession(
        { file: model },
        {
          ...(request.threads === null ? {} : { threads: request.threads }),
          ...(stock ? { stock } : {}),
        },
      ),
    );
    entries.push({ session, source, ms: [] });
  }
  let step = 0;
  for (const length of request.lengths) {
    const feeds = entries.map(({ source }) => repeatBatch(source.at(length), request.batch));
    for (const { ms } of entries) ms.push([]);
    for (let run = -1; run < request.runs; run++) {
      for (const [n, { session, ms }] of entries.entries()) {
        const { model } = request.contenders[n]!;
        progress(step++, total, run < 0 ? `warming up ${model}` : `timing ${model}`);
        await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
        const taken = await refusable(model, () => timed(session, feeds[n]!));
        if (run >= 0) ms.at(-1)!.push(taken);
      }
    }
  }
  return {
    runtimes: entries.map(({ session }) => session.runtime),
    ms: entries.map(({ ms }) => ms),
    peak_bytes: peakMemory(),
  };
}

async function timed(session: ModelSession, feeds: ReadonlyMap<string, TensorValue>): Promise<number> {
  const start = performance.now();
  await session.run(feeds);
  return performance.now() - start;
}
