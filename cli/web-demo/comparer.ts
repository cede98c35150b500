import * as ort from 'onnxruntime-web/webgpu';
import { OPERATORS } from '../../custom-ops/index.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { type Execution, InferenceSession } from '../../custom-ops/runtime/web/index.js';
import { InputError } from '../../rewriter/errors.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { externalLocations } from '../../rewriter/onnx/external-data.js';
import { type Decision, decideUniformly } from '../../rewriter/plan.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import type { AttentionSite, NearMiss, Site } from '../../rewriter/site.js';
import type { AttentionReach } from '../../rewriter/validation.js';
import {
  type ByteTask,
  bitsPerByte,
  drawHiddenSpans,
  hiddenByteTask,
  nextByteTask,
  takesBytes,
} from '../data/byte-task.js';
import { generateInputs } from '../data/generate-inputs.js';
import { modelInputs } from '../data/model-inputs.js';
import { isElementType, type TensorValue, tensorFrom, toNumbers } from '../data/tensor.js';
import { attentionReach } from '../validation/attention-reach.js';
import { difference } from '../validation/difference.js';
import { expose } from '../validation/replacement.js';
import { GpuMemory } from './gpu-memory.js';
import type { Comparison, ComparisonRequest, Failure, Measurement } from './messages.js';

/** Timed runs of each model, unless the first one took longer than this. */
const RUNS = 3;
const SLOW_MS = 20_000;

type Values = ReadonlyMap<string, TensorValue>;

/** What both models are fed. */
interface Task {
  readonly inputs: Values;
  readonly bytes: ByteTask | null;
}

/** A model that ran, with its outputs. */
interface Ran {
  readonly measurement: Measurement;
  readonly outputs: Values;
}

/** Rewrites models and runs them against their originals. */
export class Comparer {
  readonly #memory = GpuMemory.watch();

  /** @param report hears what is being done, and which fraction of the work is behind */
  constructor(private readonly report: (stage: string, fraction: number) => void) {}

  /**
   * The rewritten model runs first: when the original is too large for the device, it is the last thing to fail.
   * @throws InputError when the model is damaged, cannot be fed, or has nothing to replace
   */
  async compare(request: ComparisonRequest): Promise<Comparison> {
    this.report('Rewriting', 0.02);
    const { name, length } = request;
    checkSelfContained(request);
    const { model, decisions, nearMisses } = rewriteModel(
      request.model,
      sites =>
        decideUniformly(
          sites,
          {
            operator: multipoleAttention,
            fusions: OPERATORS,
            settings: request.settings,
            selects: () => true,
          },
          0,
        ),
      { file: name },
    );
    const sites = decisions.map(({ site }) => site);
    const task = taskFor(request, sites);
    const replaced = decisions.flatMap(({ site, replacement }) => (replacement === null ? [] : [site]));
    if (replaced.length === 0) throw nothingReplaced(name, decisions, nearMisses);

    const rewritten = await this.#attempt(() => this.#measure('rewritten model', model, task, 0.1));
    this.report('Looking where attention goes', 0.45);
    const reach = 'failure' in rewritten ? new Map() : await this.#reach(model, replaced, task.inputs);
    const original = await this.#attempt(() => this.#measure('original model', request.model, task, 0.6));
    this.report('Comparing', 0.98);
    return {
      name,
      length,
      inputs: task.bytes === null ? 'generated' : 'text',
      sites: decisions.map(({ site, replacement, reason }) => ({
        id: site.id,
        operator: replacement?.operator.id ?? null,
        reason,
        reach: reach.get(site) ?? null,
      })),
      original: 'failure' in original ? original : original.measurement,
      rewritten: 'failure' in rewritten ? rewritten : rewritten.measurement,
      differences: 'failure' in original || 'failure' in rewritten ? [] : differences(original, rewritten),
      model,
    };
  }

  async #attempt(run: () => Promise<Ran>): Promise<Ran | Failure> {
    try {
      return await run();
    } catch (error) {
      return { failure: error instanceof Error ? error.message : String(error) };
    }
  }

  /** @param fraction of the whole work that is behind when this starts */
  async #measure(what: string, model: Uint8Array, task: Task, fraction: number): Promise<Ran> {
    this.report(`Loading the ${what}`, fraction);
    this.#memory.takeMost();
    const session = await open(model);
    try {
      const times: number[] = [];
      let outputs: Values = new Map();
      let runs = RUNS;
      for (let run = 0; run <= runs; run++) {
        this.report(
          run === 0 ? `First run of the ${what}` : `Run ${run} of ${runs} of the ${what}`,
          fraction + 0.07 + (0.28 * run) / (RUNS + 1),
        );
        const start = performance.now();
        outputs = await runOnce(session, task.inputs, session.outputNames);
        times.push(performance.now() - start);
        if (times[0]! > SLOW_MS) runs = 1;
      }
      const [firstMs = 0, ...timed] = times;
      return { measurement: this.#measured(session.execution, firstMs, timed, outputs, task), outputs };
    } finally {
      await session.release();
    }
  }

  #measured(
    execution: Execution,
    firstMs: number,
    timed: readonly number[],
    outputs: Values,
    { bytes }: Task,
  ): Measurement {
    const most = this.#memory.takeMost();
    const [logits] = outputs.values();
    return {
      execution,
      firstMs,
      medianMs: [...timed].sort((a, b) => a - b)[timed.length >> 1]!,
      runs: timed.length,
      gpuBytes: execution.provider === 'webgpu' ? most : null,
      bitsPerByte: bytes === null || !logits ? null : bitsPerByte(toNumbers(logits), bytes),
    };
  }

  /** Where the replaced sites attend, from the queries and keys of the rewritten model. */
  async #reach(
    model: Uint8Array,
    sites: readonly Site[],
    inputs: Values,
  ): Promise<ReadonlyMap<Site, AttentionReach>> {
    const softmax = sites.filter((site): site is AttentionSite => site.computation === 'softmax');
    const namesOf = ({ query, key, keyMask }: AttentionSite) =>
      [query.value, key.value, ...(keyMask ? [keyMask.value] : [])].filter(value => !inputs.has(value));
    const names = [...new Set(softmax.flatMap(namesOf))];
    const session = await open(expose(decodeModel(model), names));
    try {
      const found = new Map<Site, AttentionReach>();
      const values = await runOnce(session, inputs, names);
      for (const site of softmax) {
        const reach = attentionReach(site, name => values.get(name) ?? inputs.get(name));
        if (reach !== null) found.set(site, reach);
      }
      return found;
    } finally {
      await session.release();
    }
  }
}

/** @throws InputError when weights are in files beside the model, which a page does not get to see */
function checkSelfContained({ model, name }: ComparisonRequest): void {
  const files = externalLocations(decodeModel(model, { file: name }));
  if (files.length === 0) return;
  throw new InputError(`${name}: its weights are in other files (${files.slice(0, 3).join(', ')})`, {
    file: name,
    remedy: 'This page takes single files: save the model with its weights inside, or use the command line.',
  });
}

function nothingReplaced(
  name: string,
  decisions: readonly Decision[],
  nearMisses: readonly NearMiss[],
): InputError {
  const [reasons, what] =
    decisions.length > 0
      ? [
          decisions.map(({ reason }) => reason),
          `none of its ${decisions.length} attention sites can be replaced`,
        ]
      : [nearMisses.map(({ reason }) => reason), 'no attention was found'];
  const why = [...new Set(reasons)].slice(0, 3).join('; ');
  return new InputError(`${name}: ${what}${why === '' ? '' : ` (${why})`}`, {
    file: name,
    remedy: 'There is nothing to compare. The command onnx-rewrite inspect lists what it found.',
  });
}

/** Notices are in {@link InferenceSession.execution} too, which is shown. */
const open = (model: Uint8Array) => InferenceSession.create(model, { onNotice: () => {} });

async function runOnce(session: InferenceSession, inputs: Values, names: readonly string[]): Promise<Values> {
  const feeds = Object.fromEntries(
    Array.from(inputs, ([name, { type, dims, data }]) => [name, new ort.Tensor(type, data, dims)]),
  );
  const results = await session.run(feeds, names);
  return new Map(names.map(name => [name, tensorValue(results[name] as ort.Tensor)]));
}

function tensorValue({ type, dims, data }: ort.Tensor): TensorValue {
  if (!isElementType(type)) throw new Error(`an output has the type ${type}, which cannot be compared`);
  return { type, dims, data } as TensorValue;
}

function taskFor({ model, name, text, length }: ComparisonRequest, sites: readonly Site[]): Task {
  const wanted = modelInputs(decodeModel(model, { file: name }));
  const [ids] = wanted;
  if (wanted.length === 1 && ids && takesBytes(ids)) {
    const causal = sites.some(site => site.causal);
    const stretch = text.subarray(0, length);
    const bytes = causal
      ? nextByteTask(stretch)
      : hiddenByteTask(stretch, drawHiddenSpans(stretch.length, 0));
    return { inputs: new Map([[ids.name, tensorFrom(ids.type, [1, length], bytes.ids)]]), bytes };
  }
  return { inputs: generateInputs(wanted, { length, batch: 1, padded: false, seed: 0 }), bytes: null };
}

function differences(original: Ran, rewritten: Ran): Comparison['differences'] {
  return Array.from(original.outputs, ([name, expected]) => ({
    name,
    ...difference(expected, rewritten.outputs.get(name)!),
  }));
}
