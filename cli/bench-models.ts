import { InputError } from '../rewriter/errors.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import { feedsOf, type InputRequest } from './bench-inputs.js';
import { sequenceLength } from './data/input-source.js';
import type { TensorValue } from './data/tensor.js';
import { peakMemory } from './peak-memory.js';
import type { Progress } from './runtime/jobs.js';
import type { Provider } from './runtime/providers.js';
import { refusable } from './runtime/refusable.js';
import { type ModelSession, openSession } from './runtime/session.js';

/** A model, and whether onnxruntime-node alone is to run it. */
export interface Contender {
  readonly model: string;
  readonly stock: boolean;
}

export interface BenchRequest extends InputRequest {
  readonly contenders: readonly Contender[];
  readonly provider: Provider;
  /** Threads of one operator; null for the runtime's choice. */
  readonly threads: number | null;
  /** Timed runs, after one that is not timed. */
  readonly runs: number;
}

export interface BenchResult {
  /** Tokens; null for inputs without a sequence. */
  readonly length: number | null;
  /** By contender. */
  readonly timings: readonly ContenderTiming[];
  /** Peak resident memory of this process: what a model takes when it is the only one. */
  readonly peak_bytes: number;
  /** The same when the models were loaded and nothing had run yet. */
  readonly loaded_bytes: number;
}

export interface ContenderTiming {
  /** Null where the model does not take the inputs. */
  readonly runtime: RuntimeDescription | null;
  /** One number a run; those before a failure count for nothing. */
  readonly ms: readonly number[];
  /** Why the model does not take the inputs, or what the runtime says where it refuses; null where it runs. */
  readonly failure: string | null;
}

/** Idle threads of a session go on looking for work for a moment: long enough to be in the next one's way. */
const PAUSE_MS = 20;

interface Entry {
  readonly model: string;
  readonly session: ModelSession;
  readonly feeds: ReadonlyMap<string, TensorValue>;
  readonly ms: number[];
  failure: string | null;
}

/**
 * Times models against each other in one process, at one length: all run once to warm up, then take turns, so
 * that whatever else the machine does falls on all of them. The first steps of the progress load the contenders,
 * one each; later steps are runs, and step `n` belongs to contender `n` modulo their number.
 * @throws InputError when a model cannot be loaded, or none takes the inputs
 */
export async function benchModels(request: BenchRequest, progress: Progress): Promise<BenchResult> {
  const { contenders, length, runs } = request;
  const total = (runs + 2) * contenders.length;
  const at = length === null ? '' : ` at ${length} tokens`;
  const entries: (Entry | InputError)[] = [];
  for (const [n, contender] of contenders.entries()) {
    progress(n, total, `loading ${contender.model}${at}`);
    entries.push(await open(contender, request));
  }
  const ready = entries.filter((entry): entry is Entry => !(entry instanceof InputError));
  if (ready.length === 0) throw entries[0];
  const loaded = peakMemory();
  for (let run = -1; run < runs; run++) {
    for (const [n, entry] of entries.entries()) {
      if (entry instanceof InputError || entry.failure !== null) continue;
      const label = `${run < 0 ? 'warming up' : 'timing'} ${entry.model}${at}`;
      progress((run + 2) * contenders.length + n, total, label);
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS));
      try {
        const ms = await timed(entry);
        if (run >= 0) entry.ms.push(ms);
      } catch (error) {
        entry.failure = (error as Error).message.trimEnd();
      }
    }
  }
  return {
    length: length ?? sequenceLength(ready[0]!.feeds),
    timings: entries.map(entry =>
      entry instanceof InputError
        ? { runtime: null, ms: [], failure: entry.message }
        : { runtime: entry.session.runtime, ms: entry.ms, failure: entry.failure },
    ),
    peak_bytes: peakMemory(),
    loaded_bytes: loaded,
  };
}

/**
 * Loads a contender with its inputs, or tells why it does not take them.
 * @throws InputError when the model cannot be loaded
 */
async function open({ model, stock }: Contender, request: BenchRequest): Promise<Entry | InputError> {
  const { provider, threads } = request;
  let feeds: Entry['feeds'];
  try {
    feeds = feedsOf(model, request);
  } catch (error) {
    if (error instanceof InputError) return error;
    throw error;
  }
  const session = await refusable(model, () =>
    openSession(
      { file: model },
      { provider, ...(threads === null ? {} : { threads }), ...(stock ? { stock } : {}) },
    ),
  );
  return { model, session, feeds, ms: [], failure: null };
}

async function timed({ session, feeds }: Entry): Promise<number> {
  const start = performance.now();
  await session.run(feeds);
  return performance.now() - start;
}
