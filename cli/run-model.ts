import { writeFileSync } from 'node:fs';
import { openModelFile } from '../rewriter/onnx/model-file.js';
import type { RuntimeDescription } from '../rewriter/validation.js';
import { chosenSource, type InputChoice, sequenceLength } from './data/input-source.js';
import { encodeJsonTensors } from './data/json-tensors.js';
import { modelInputs } from './data/model-inputs.js';
import { encodeNpz } from './data/npz.js';
import { type TensorValue, toNumbers } from './data/tensor.js';
import { peakMemory } from './peak-memory.js';
import type { Progress } from './runtime/jobs.js';
import type { Provider } from './runtime/providers.js';
import { refusable } from './runtime/refusable.js';
import { openSession } from './runtime/session.js';

export interface RunRequest extends InputChoice {
  readonly model: string;
  readonly length: number | null;
  readonly provider: Provider;
  /** Threads of one operator; null for the runtime's choice. */
  readonly threads: number | null;
  /** Runs to time. */
  readonly repeat: number;
  /** Where to store the outputs, and how; null to store nothing. */
  readonly save: { readonly file: string; readonly format: 'npz' | 'json' } | null;
}

/** What `run --json` prints. */
export interface RunResult {
  readonly model: string;
  readonly runtime: RuntimeDescription;
  readonly inputs: string;
  readonly length: number | null;
  readonly outputs: readonly OutputSummary[];
  readonly load_ms: number;
  /** One entry for each run, the first one cold. */
  readonly run_ms: readonly number[];
  /** Peak resident memory of the process that loaded and ran the model, the runtime itself included. */
  readonly peak_bytes: number;
}

export interface OutputSummary {
  readonly name: string;
  readonly type: string;
  readonly dims: readonly number[];
  /** Over the finite elements; null when there is none. */
  readonly min: number | null;
  readonly max: number | null;
  readonly mean: number | null;
  readonly not_finite: number;
}

const DEFAULT_LENGTH = 256;

/**
 * Runs a model on the requested inputs.
 * @throws InputError when the model or its inputs are bad, or the runtime refuses them
 */
export async function runModel(request: RunRequest, progress: Progress): Promise<RunResult> {
  const { model, provider, threads } = request;
  const opened = openModelFile(model);
  const inputs = modelInputs(opened.model);
  opened.close();
  const source = chosenSource(request, inputs);
  const length = request.length ?? (source.longest === null && source.anyLength ? DEFAULT_LENGTH : null);
  const feeds = source.at(length);
  const total = request.repeat + 1;
  progress(0, total, 'loading the model');
  const loadStart = performance.now();
  const session = await refusable(request.model, () =>
    openSession({ file: model }, { provider, ...(threads === null ? {} : { threads }) }),
  );
  const loadTime = performance.now() - loadStart;
  const times: number[] = [];
  let outputs = new Map<string, TensorValue>();
  for (let i = 0; i < request.repeat; i++) {
    progress(i + 1, total, 'running the model');
    const start = performance.now();
    outputs = await refusable(request.model, () => session.run(feeds));
    times.push(performance.now() - start);
  }
  const peak = peakMemory();
  if (request.save) {
    const { file, format } = request.save;
    writeFileSync(file, format === 'npz' ? encodeNpz(outputs) : encodeJsonTensors(outputs));
  }
  return {
    model: request.model,
    runtime: session.runtime,
    inputs: source.description,
    length: length ?? sequenceLength(feeds),
    outputs: [...outputs].map(([name, tensor]) => summarize(name, tensor)),
    load_ms: loadTime,
    run_ms: times,
    peak_bytes: peak,
  };
}

function summarize(name: string, tensor: TensorValue): OutputSummary {
  const elements = toNumbers(tensor);
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  let sum = 0;
  let finite = 0;
  for (let i = 0; i < elements.length; i++) {
    const value = elements[i]!;
    if (!Number.isFinite(value)) continue;
    min = Math.min(min, value);
    max = Math.max(max, value);
    sum += value;
    finite++;
  }
  const measured = finite > 0 ? { min, max, mean: sum / finite } : { min: null, max: null, mean: null };
  return { name, type: tensor.type, dims: tensor.dims, ...measured, not_finite: elements.length - finite };
}
